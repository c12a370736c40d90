//! The guard: whether what the source lacks may go from the replica.
//!
//! It is about continuity. A source that is trusted is followed, whatever it deletes. At the
//! start of a run, and after another directory was adopted as the source, nobody knows whether
//! it is the right one and whole: then a count decides, before the first deletion.

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;

use crate::fault::Fault;
use crate::path::RelPath;
use crate::queue::Detector;
use crate::reconcile::Deletions;

/// Fewer deletions than this are never held by a percentage.
const FEW: u64 = 100;

/// A wholly empty source is not believed against a replica of so many entries.
const EMPTIED: u64 = 10;

/// A source that was doubted is whole again when but one in so many of what it lacked is still missing.
const RESTORED: u64 = 10;

/// How many deletions may pass an unproven source: `--max-delete`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// So many entries, taken at its word.
    Number(u64),
    /// This share of the replica's entries, in percent; 100 turns the guard off.
    Percent(f64),
}

impl Default for Limit {
    fn default() -> Self {
        Limit::Percent(50.0)
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give a number of entries (200) or a share of the replica (50%)".to_owned();
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
                match percent {
                    0.0 => Ok(Limit::Number(0)),
                    _ if (0.0..=100.0).contains(&percent) => Ok(Limit::Percent(percent)),
                    _ => Err(wrong()),
                }
            }
            None => text.parse().map(Limit::Number).map_err(|_| wrong()),
        }
    }
}

/// What a run would delete, counted before the first deletion.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Entries of the replica, as far as they can be compared.
    pub entries: u64,
    /// Entries of the source that the replica lacks, with all that they hold. Counted only where there are [`FEW`]
    /// deletions or more.
    pub new: u64,
    /// Entries that the source lacks, with all that they hold.
    pub deletions: u64,
    /// Whether the source holds nothing at all.
    pub source_is_empty: bool,
    /// Empty directories of the source against which the replica's hold [`FEW`] or more.
    pub emptied: Vec<RelPath>,
    /// Directories of the replica that hold so much, and are something else in the source.
    pub turned: Vec<RelPath>,
    /// Some of the entries that would go.
    pub examples: Vec<RelPath>,
    /// A directory that could not be looked into, by an error that may pass.
    pub unknown: Option<(RelPath, Fault)>,
}

impl Count {
    /// Of a directory that could not be looked into. What keeps this user out does so for good, and
    /// nothing below is deleted; after an error of the disk or the network there may be much to delete.
    pub fn unlisted(dir: &RelPath, fault: Fault) -> Self {
        let lasts = fault.is_no_dir() || matches!(fault.errno, Errno::ACCESS | Errno::PERM | Errno::XDEV);
        Self { unknown: (!lasts).then(|| (dir.clone(), fault)), ..Self::default() }
    }
}

/// Why deletions are held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Doubt {
    SourceIsEmpty,
    DirectoryIsEmpty(RelPath),
    DirectoryIsNone(RelPath),
    TooMany,
    Unknown,
    /// It was doubted, and more than so many entries are still missing.
    NotWhole(u64),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::SourceIsEmpty => write!(f, "the source is empty"),
            Doubt::DirectoryIsEmpty(dir) => write!(f, "the source's {dir}/ is empty"),
            Doubt::DirectoryIsNone(dir) => write!(f, "the source's {dir} is no directory any more"),
            Doubt::TooMany => write!(f, "that is more than --max-delete lets pass"),
            Doubt::NotWhole(least) => {
                write!(f, "the source is followed once it is whole again, to no more than {least}")
            }
            Doubt::Unknown => write!(f, "a directory could not be looked into, where there may be more"),
        }
    }
}

/// Whether the count gives reason to doubt the source.
pub fn judge(count: &Count, limit: Limit) -> Option<Doubt> {
    let is_off = matches!(limit, Limit::Percent(percent) if percent >= 100.0);
    judge_known(count, limit).or_else(|| (count.unknown.is_some() && !is_off).then_some(Doubt::Unknown))
}

fn judge_known(count: &Count, limit: Limit) -> Option<Doubt> {
    match limit {
        Limit::Number(number) => (count.deletions > number).then_some(Doubt::TooMany),
        Limit::Percent(percent) if percent >= 100.0 => None,
        Limit::Percent(_) if count.source_is_empty && count.deletions >= EMPTIED => {
            Some(Doubt::SourceIsEmpty)
        }
        Limit::Percent(percent) => {
            let allowed = count.entries as f64 * percent / 100.0;
            if count.deletions >= FEW && count.deletions as f64 > allowed {
                return Some(Doubt::TooMany);
            }
            let emptied = count.emptied.first().cloned().map(Doubt::DirectoryIsEmpty);
            emptied.or_else(|| count.turned.first().cloned().map(Doubt::DirectoryIsNone))
        }
    }
}

/// How many new entries may be copied so that the next run has the same doubt, 0 where the source has more than that; `None`
/// where copies hide nothing.
fn spare(count: &Count, doubt: &Doubt, limit: Limit) -> Option<u64> {
    let hides_nothing = match doubt {
        Doubt::TooMany | Doubt::SourceIsEmpty => false,
        // Of what is not known there may be little.
        Doubt::Unknown => !is_much(count.deletions),
        // However much is copied elsewhere, it stays so.
        Doubt::DirectoryIsEmpty(_) | Doubt::DirectoryIsNone(_) | Doubt::NotWhole(_) => true,
    };
    if hides_nothing || matches!(limit, Limit::Number(_)) {
        return None;
    }
    // The greatest number at which the share is still too large, bit by bit.
    let is_too_much = |new: u64| {
        let entries = count.entries.saturating_add(new);
        let copied = Count { entries, source_is_empty: false, ..count.clone() };
        judge_known(&copied, limit) == Some(Doubt::TooMany)
    };
    let spare = (0..48)
        .rev()
        .fold(0, |spare, bit| if is_too_much(spare | 1 << bit) { spare | 1 << bit } else { spare });
    // Half of that: what is to go may become less before it is counted again.
    Some(if count.new > spare / 2 { 0 } else { spare / 2 })
}

/// Says that the guard holds deletions, which, and how to let them pass.
pub fn say_held(count: &Count, doubt: &Doubt, limit: Limit) {
    let Count { deletions, entries, new, .. } = count;
    let what = match (doubt, &count.unknown) {
        (Doubt::Unknown, Some((dir, fault))) => format!(
            "{dir} could not be looked into ({fault}), so that nobody knows how much would go: {deletions} of the \
             replica's entries at least"
        ),
        _ => format!("{deletions} of the replica's {entries} entries are not in the source, and {doubt}"),
    };
    let meanwhile = if count.new > 0 && spare(count, doubt, limit) == Some(0) {
        format!(
            "Nothing is deleted, and {new} new entries wait: copied, they would make the share look small"
        )
    } else {
        "Nothing is deleted; copying goes on".to_owned()
    };
    let examples: Vec<String> = count.examples.iter().map(ToString::to_string).collect();
    let among =
        if examples.is_empty() { String::new() } else { format!(". Among them: {}", examples.join(", ")) };
    let advice = match doubt {
        Doubt::Unknown => "See to that disk: they are followed once it can be read. If they are to go unseen",
        _ => "If they are to go",
    };
    // What is not known has no number.
    let limit = if count.unknown.is_some() { "100%".to_owned() } else { deletions.to_string() };
    tracing::warn!(
        op = "held",
        deletions,
        entries,
        "{what}. {meanwhile}{among}. {advice}: stop this twindir, run it once with --once --max-delete {limit}, \
         start it again",
    );
}

/// How many entries below one empty directory give reason to doubt it.
pub fn is_much(entries: u64) -> bool {
    entries >= FEW
}

/// What the guard makes of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Not counted yet.
    Unproven,
    Trusted,
    /// Counted, and doubted: each sweep counts anew. `of`: the replica's entries when the doubt arose.
    Held {
        of: u64,
        /// So many new entries may still be copied, where that is limited. With more, the next run would find a smaller
        /// share to be deleted, and trust the source for its own copies: then what is new waits too.
        spare: Option<u64>,
        /// Only with so few left to be deleted is it trusted again: a source that is being restored is not whole yet.
        least: u64,
        told: Told,
    },
}

/// What was last said of deletions that are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Nothing,
    Held,
    /// And that what is new waits.
    Waiting,
    /// That less is missing, and too much.
    NotWhole,
}

impl Trust {
    /// What is left of it after a doubt.
    pub fn shaken(self, count: &Count, doubt: &Doubt, limit: Limit) -> Self {
        let spare = spare(count, doubt, limit);
        let least = match (doubt, limit) {
            // A plain number is taken at its word, and what is not known has none.
            (Doubt::Unknown, _) | (_, Limit::Number(_)) => u64::MAX,
            _ => count.deletions / RESTORED,
        };
        // A source that is being restored is counted in between, too: what was missing at first counts.
        let least = match self {
            Trust::Held { least: first, .. } if first != u64::MAX => first,
            _ => least,
        };
        let told = if spare == Some(0) { Told::Waiting } else { Told::Held };
        Self::Held { of: self.entries(count), spare, least, told }
    }

    /// Of a source that is in doubt before it is counted: it has to be whole. A plain number is taken at its word all the same,
    /// and where the guard is off, it is off.
    pub fn doubted(limit: Limit) -> Self {
        match limit {
            Limit::Percent(percent) if percent < 100.0 => {
                Self::Held { of: u64::MAX, spare: None, least: 0, told: Told::Nothing }
            }
            Limit::Percent(_) | Limit::Number(_) => Self::Unproven,
        }
    }

    /// Whether it is that of [`Trust::doubted`]: what a count leads to lets a few deletions pass.
    pub fn is_doubted(self) -> bool {
        matches!(self, Trust::Held { least: 0, .. })
    }

    /// What is left of it where a count gives no reason for doubt. One that was doubted has to be whole first.
    pub fn restored(self, count: &Count) -> Self {
        match self {
            Trust::Held { of, least, .. } if count.deletions > least => {
                Trust::Held { of, spare: None, least, told: Told::NotWhole }
            }
            _ => Trust::Trusted,
        }
    }

    /// What was last said of it, while deletions are held.
    pub fn told(self) -> Told {
        match self {
            Trust::Held { told, .. } => told,
            Trust::Unproven | Trust::Trusted => Told::Nothing,
        }
    }

    /// The replica's entries when the doubt arose. What is copied meanwhile makes no share of deletions
    /// smaller: else a wrong source would come to be trusted for its own copies.
    pub fn entries(self, count: &Count) -> u64 {
        match self {
            Trust::Held { of, .. } => of.min(count.entries),
            Trust::Unproven | Trust::Trusted => count.entries,
        }
    }

    /// What is followed of what a detector asks for. Where new entries are limited, only the sweep that follows a count brings
    /// them: what the watch tells may have changed what was counted.
    pub fn deletions(self, detector: Detector) -> Deletions {
        let spare = match (self, detector) {
            (Trust::Trusted, _) => return Deletions::Followed,
            (Trust::Held { spare: None, .. }, _) => u64::MAX,
            (Trust::Held { spare: Some(spare), .. }, Detector::Sweep) => spare,
            (Trust::Held { .. }, Detector::Watch) | (Trust::Unproven, _) => 0,
        };
        Deletions::Held { spare }
    }

    /// Until it is counted again, nothing new is copied.
    pub fn spend(&mut self) {
        self.created(u64::MAX);
    }

    /// Notes that so many entries were created.
    pub fn created(&mut self, number: u64) {
        if let Trust::Held { spare: Some(spare), .. } = self {
            *spare = spare.saturating_sub(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_from_a_doubted_source_are_limited_only_where_they_hide_something() {
        let held = |spare| Trust::Held { of: 300, spare, least: 0, told: Told::Held };
        let spares = |trust: Trust| [Detector::Sweep, Detector::Watch].map(|by| trust.deletions(by).spare());
        for (spare, then, at_last) in [(Some(5), [3, 0], [0, 0]), (None, [u64::MAX; 2], [u64::MAX; 2])] {
            let mut trust = held(spare);
            trust.created(2);
            assert_eq!(spares(trust), then);
            trust.spend();
            assert_eq!(spares(trust), at_last);
        }
    }

    fn count(entries: u64, deletions: u64) -> Count {
        Count { entries, deletions, ..Count::default() }
    }

    fn judged(count: &Count) -> Option<Doubt> {
        judge(count, Limit::default())
    }

    #[test]
    fn more_than_half_is_held_from_a_hundred_on() {
        assert_eq!(judged(&count(150, 99)), None);
        assert_eq!(judged(&count(199, 100)), Some(Doubt::TooMany));
        assert_eq!(judged(&count(200, 100)), None);
        assert_eq!(judged(&count(1_000_000, 400_000)), None);
    }

    #[test]
    fn an_empty_source_is_held_from_ten_on() {
        let empty = |n| Count { source_is_empty: true, ..count(n, n) };
        assert_eq!(judged(&empty(9)), None);
        assert_eq!(judged(&empty(10)), Some(Doubt::SourceIsEmpty));
    }

    #[test]
    fn an_emptied_directory_is_held() {
        let dir = RelPath::new(b"photos").unwrap();
        let emptied = Count { emptied: vec![dir.clone()], ..count(100_000, 100) };
        assert_eq!(judged(&emptied), Some(Doubt::DirectoryIsEmpty(dir)));
    }

    #[test]
    fn a_large_directory_that_became_something_else_is_held() {
        let dir = RelPath::new(b"photos").unwrap();
        let turned = Count { turned: vec![dir.clone()], ..count(100_000, 100) };
        assert_eq!(judged(&turned), Some(Doubt::DirectoryIsNone(dir)));
        assert_eq!(judge(&turned, Limit::Number(100)), None);
    }

    #[test]
    fn a_source_that_was_doubted_is_trusted_once_a_tenth_of_what_it_lacked_is_missing() {
        let after = |limit, missing| {
            let held = Trust::Unproven.shaken(&count(300, 200), &Doubt::TooMany, limit);
            held.restored(&count(300, missing))
        };
        assert_eq!(after(Limit::default(), 20), Trust::Trusted);
        assert!(matches!(after(Limit::default(), 21), Trust::Held { spare: None, .. }));
        assert_eq!(after(Limit::Number(100), 100), Trust::Trusted, "a number is taken at its word");
        let unknown = Trust::Unproven.shaken(&count(300, 3), &Doubt::Unknown, Limit::default());
        assert_eq!(unknown.restored(&count(300, 99)), Trust::Trusted);
    }

    #[test]
    fn a_source_that_is_counted_while_it_is_restored_has_to_be_no_more_whole_for_that() {
        let held = |trust: Trust, missing| {
            let count = count(300, missing);
            trust.shaken(&count, &judged(&count).unwrap(), Limit::default())
        };
        let trust = held(held(held(Trust::Unproven, 300), 200), 160);
        assert!(matches!(trust.restored(&count(300, 31)), Trust::Held { least: 30, .. }));
        assert_eq!(trust.restored(&count(300, 30)), Trust::Trusted);
    }

    #[test]
    fn a_doubted_source_has_to_be_whole_unless_the_limit_says_otherwise() {
        let after = |limit, missing| {
            let doubted = Trust::doubted(limit);
            match judge(&count(300, missing), limit) {
                Some(doubt) => doubted.shaken(&count(300, missing), &doubt, limit),
                None => doubted.restored(&count(300, missing)),
            }
        };
        let [few, much] = [1, 299].map(|missing| after(Limit::default(), missing));
        assert!(few.is_doubted() && much.is_doubted());
        assert_eq!(after(Limit::default(), 0), Trust::Trusted);
        assert_eq!(after(Limit::Percent(100.0), 299), Trust::Trusted);
        assert_eq!(after(Limit::Number(299), 299), Trust::Trusted);
        assert!(matches!(after(Limit::Number(298), 299), Trust::Held { .. }));
        assert!(!Trust::Unproven.shaken(&count(300, 200), &Doubt::TooMany, Limit::default()).is_doubted());
    }

    #[test]
    fn a_number_is_taken_at_its_word() {
        let empty = Count { source_is_empty: true, ..count(500, 500) };
        assert_eq!(judge(&empty, Limit::Number(500)), None);
        assert_eq!(judge(&empty, Limit::Number(499)), Some(Doubt::TooMany));
        assert_eq!(judge(&count(1000, 1), Limit::Number(0)), Some(Doubt::TooMany));
    }

    #[test]
    fn what_could_not_be_looked_into_is_held_unless_it_is_for_want_of_a_right() {
        let dir = RelPath::new(b"d").unwrap();
        let unlisted = |errno| Count::unlisted(&dir, Fault { errno, ..Fault::for_test() });
        assert_eq!(judged(&unlisted(Errno::IO)), Some(Doubt::Unknown));
        assert_eq!(judge(&unlisted(Errno::IO), Limit::Number(5)), Some(Doubt::Unknown));
        assert_eq!(judge(&unlisted(Errno::IO), Limit::Percent(100.0)), None);
        assert_eq!(judged(&unlisted(Errno::ACCESS)), None);
    }

    #[test]
    fn all_of_it_turns_the_guard_off() {
        let empty = Count { source_is_empty: true, ..count(500, 500) };
        assert_eq!(judge(&empty, Limit::Percent(100.0)), None);
    }

    #[test]
    fn limits_are_read_or_refused() {
        assert_eq!("200".parse(), Ok(Limit::Number(200)));
        assert_eq!("0%".parse(), Ok(Limit::Number(0)));
        assert_eq!("12.5%".parse(), Ok(Limit::Percent(12.5)));
        for wrong in ["", "%", "-1", "101%", "-1%", "half", "NaN%", "1.5"] {
            assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
        }
    }
}
