//! When a directory of the replica may be widened (I12): one table. Pure: the caller knows the
//! facts.

/// The facts about a directory that is to be widened. Some cost system calls, so each is asked for
/// only if it matters.
pub trait WidenFacts {
    /// Returns whether the directory itself is checked, and not only entries in it.
    fn is_examined(&self) -> bool;

    /// Returns whether deletions are held: the source may be a wrong one.
    fn deletions_are_held(&self) -> bool;

    /// Returns whether it is known to match its source.
    fn is_verified(&self) -> bool;

    /// Returns whether a walk has compared everything in it with its source.
    fn is_walked(&self) -> bool;

    /// Returns whether another user could have moved it to its present path.
    fn could_have_been_moved(&self) -> bool;

    /// Returns whether this round has made it. Then it holds nothing old.
    fn is_made_now(&self) -> bool;

    /// Returns whether a check below it waits that was due before.
    fn has_checks_waiting(&self) -> bool;

    /// Returns whether an entry below it shows an older state, since its check has failed.
    fn has_failed(&self) -> bool;

    /// Returns whether a newer version of a file below it is being copied.
    fn has_copy_in_flight(&self) -> bool;
}

/// The reason why a directory cannot be widened yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WidenBlocker {
    NotExamined,
    Held,
    Unverified,
    ChecksWait,
    Failed,
    CopyInFlight,
}

impl WidenBlocker {
    /// Returns whether work that is under way removes it, without a walk.
    pub fn passes_soon(self) -> bool {
        match self {
            Self::NotExamined | Self::ChecksWait | Self::CopyInFlight => true,
            Self::Held | Self::Unverified | Self::Failed => false,
        }
    }
}

/// Returns the reason why a directory cannot be widened yet, if there is one.
pub fn widen_blocker(facts: &impl WidenFacts) -> Option<WidenBlocker> {
    if !facts.is_examined() {
        return Some(WidenBlocker::NotExamined);
    }
    if facts.deletions_are_held() {
        return Some(WidenBlocker::Held);
    }
    let is_it = facts.is_verified() || (facts.is_walked() && !facts.could_have_been_moved());
    if !is_it {
        return Some(WidenBlocker::Unverified);
    }
    if facts.is_made_now() {
        return None;
    }
    if facts.has_checks_waiting() {
        return Some(WidenBlocker::ChecksWait);
    }
    if facts.has_failed() {
        return Some(WidenBlocker::Failed);
    }
    facts.has_copy_in_flight().then_some(WidenBlocker::CopyInFlight)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The facts in the order of the trait, and the last one that was asked for.
    struct Known {
        facts: [bool; 9],
        asked: Cell<usize>,
    }

    impl Known {
        fn ask(&self, index: usize) -> bool {
            self.asked.set(index);
            self.facts[index]
        }
    }

    impl WidenFacts for Known {
        fn is_examined(&self) -> bool {
            self.ask(0)
        }

        fn deletions_are_held(&self) -> bool {
            self.ask(1)
        }

        fn is_verified(&self) -> bool {
            self.ask(2)
        }

        fn is_walked(&self) -> bool {
            self.ask(3)
        }

        fn could_have_been_moved(&self) -> bool {
            self.ask(4)
        }

        fn is_made_now(&self) -> bool {
            self.ask(5)
        }

        fn has_checks_waiting(&self) -> bool {
            self.ask(6)
        }

        fn has_failed(&self) -> bool {
            self.ask(7)
        }

        fn has_copy_in_flight(&self) -> bool {
            self.ask(8)
        }
    }

    /// `y` and `n`: the value that the row requires. `.`: any value. In the order of the trait:
    /// examined, held, verified, walked, moved, made, waiting, failed, in flight.
    const TABLE: [(&str, Option<WidenBlocker>); 14] = [
        ("n........", Some(WidenBlocker::NotExamined)),
        ("yy.......", Some(WidenBlocker::Held)),
        ("ynnn.....", Some(WidenBlocker::Unverified)),
        ("ynnyy....", Some(WidenBlocker::Unverified)),
        ("yny..y...", None),
        ("yny..ny..", Some(WidenBlocker::ChecksWait)),
        ("yny..nny.", Some(WidenBlocker::Failed)),
        ("yny..nnny", Some(WidenBlocker::CopyInFlight)),
        ("yny..nnnn", None),
        ("ynnyny...", None),
        ("ynnynny..", Some(WidenBlocker::ChecksWait)),
        ("ynnynnny.", Some(WidenBlocker::Failed)),
        ("ynnynnnny", Some(WidenBlocker::CopyInFlight)),
        ("ynnynnnnn", None),
    ];

    #[test]
    fn a_directory_is_opened_in_these_cases_only() {
        for number in 0..1_u32 << 9 {
            let facts = std::array::from_fn(|index| number & 1 << index != 0);
            let is_of = |row: &str| {
                row.bytes().zip(facts).all(|(cell, fact)| match cell {
                    b'y' => fact,
                    b'n' => !fact,
                    _ => true,
                })
            };
            let rows: Vec<_> = TABLE.iter().filter(|(row, _)| is_of(row)).collect();
            let [(row, expected)] = rows[..] else { panic!("{} rows for {facts:?}", rows.len()) };
            let known = Known { facts, asked: Cell::default() };
            assert_eq!(widen_blocker(&known), *expected, "{facts:?}");
            let needed = row.trim_end_matches('.').len() - 1;
            assert_eq!(known.asked.get(), needed, "{facts:?}: no more than needed is asked");
        }
    }
}
