//! The guard: whether the deletions in the source are followed.
//!
//! It is about continuity. A trusted source is followed, whatever it deletes. At the start of a
//! run, and after another root was adopted, the source may be the wrong one, or incomplete. Then a
//! count decides, before the first deletion.

use std::fmt;

use crate::model::check::Detector;
use crate::model::config::Rerun;
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::limit::Limit;
use crate::model::path::RelPath;
use crate::plan::deletions::Deletions;

/// Fewer deletions than this are never held by a percentage at the start of a run.
const FEWEST_AT_START: u64 = 100;

/// Fewer deletions than this are never held by a percentage. This applies to adopted roots, to
/// empty sources, and if source and replica have hardly a name in common.
const FEWEST_ADOPTED: u64 = 3;

/// Percentage of the replica's entries that must have a counterpart of the same name in the source.
const IN_COMMON: f64 = 10.0;

/// The divisor of the number of deletions that were first held. Once no more than that is left, the
/// source is trusted again.
const RESTORED: u64 = 10;

/// The occasion of a count. An adopted root is trusted less than one that the command line names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    Start,
    /// Another directory was found at the path of a root.
    Adopted,
}

/// The deletions that a run would make, counted before the first one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Entries of the replica, as far as they can be compared.
    pub entries: u64,
    /// Entries of the source that the replica lacks, with everything in them. Counted only if
    /// deletions may be held ([`Count::asks_for_new`]).
    pub new: u64,
    /// Entries of the replica that the source lacks, with everything in them.
    pub deletions: u64,
    /// The names of the replica, and how many of them the source has too.
    pub names: NameCount,
    /// Whether the source holds nothing at all.
    pub source_is_empty: bool,
    /// Directories that are empty in the source, and whose deletions in the replica are [`FEWEST_AT_START`] or
    /// more.
    pub emptied: Vec<RelPath>,
    /// Directories of the replica with as many entries that are something else in the source.
    pub turned: Vec<RelPath>,
    /// Some of the entries to be deleted.
    pub examples: Vec<RelPath>,
    /// A directory that could not be opened or listed, because of an error that may pass.
    pub unknown: Option<(RelPath, FsError)>,
}

/// The replica's names, without `lost+found`, and those of them that the source has at the same
/// path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameCount {
    pub all: u64,
    pub shared: u64,
}

impl NameCount {
    /// Returns whether the two trees share so few names that they seem to be unrelated. `percent`
    /// is the limit on deletions. Above 90 %, fewer names need to be shared.
    fn are_strange(self, percent: f64) -> bool {
        let wanted = IN_COMMON.min(100.0 - percent);
        self.all - self.shared >= FEWEST_ADOPTED
            && (self.shared as f64) * 100.0 < (self.all as f64) * wanted
    }
}

impl std::ops::AddAssign for NameCount {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.shared += other.shared;
    }
}

impl Count {
    /// Makes the count for a directory that could not be opened or listed.
    ///
    /// An error that keeps this user out lasts, and then nothing below is deleted. An error of the
    /// disk or the network may pass. After it there may be many deletions, so the directory is
    /// `unknown`.
    pub fn unlisted(dir: &RelPath, error: FsError) -> Self {
        let lasts = error.is_dir_absence()
            || error.is_forbidden()
            || error.kind == FsErrorKind::OpensOtherDevice;
        Self { unknown: (!lasts).then(|| (dir.clone(), error)), ..Self::default() }
    }

    /// Returns whether new entries have to be counted: deletions may be held.
    pub fn asks_for_new(&self) -> bool {
        is_much(self.deletions) || self.names.are_strange(0.0) || 2 * self.deletions > self.entries
    }
}

/// The reason why deletions are held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Doubt {
    SourceIsEmpty,
    /// Source and replica have hardly a name in common.
    Strange(NameCount),
    DirectoryIsEmpty(RelPath),
    NotADirectory(RelPath),
    TooMany,
    Unknown,
    /// Deletions were held before, and more than this number of entries is still missing.
    NotWhole(u64),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::SourceIsEmpty => write!(f, "the source is empty"),
            Doubt::Strange(NameCount { all, shared }) => write!(
                f,
                "this replica shares {shared} of {all} entries with the source: is it the right one?"
            ),
            Doubt::DirectoryIsEmpty(dir) => write!(f, "the source's {dir}/ is empty"),
            Doubt::NotADirectory(dir) => write!(f, "the source's {dir} is no directory any more"),
            Doubt::TooMany => write!(f, "that is more than may be deleted without a question"),
            Doubt::NotWhole(most) => {
                write!(
                    f,
                    "the source is restored only in part: deletions are mirrored again once at most {most} are missing"
                )
            }
            Doubt::Unknown => {
                write!(f, "a directory could not be read, and may hold more")
            }
        }
    }
}

/// Returns the reason to hold deletions, if the count gives one.
pub fn judge(count: &Count, limit: Limit, occasion: Occasion) -> Option<Doubt> {
    let is_off = matches!(limit, Limit::Percent(percent) if percent >= 100.0);
    judge_known(count, limit, occasion)
        .or_else(|| (count.unknown.is_some() && !is_off).then_some(Doubt::Unknown))
}

fn judge_known(count: &Count, limit: Limit, occasion: Occasion) -> Option<Doubt> {
    match limit {
        Limit::Number(number) => (count.deletions > number).then_some(Doubt::TooMany),
        Limit::Percent(percent) if percent >= 100.0 => None,
        Limit::Percent(_) if count.source_is_empty && count.deletions >= FEWEST_ADOPTED => {
            Some(Doubt::SourceIsEmpty)
        }
        Limit::Percent(percent) => {
            if count.names.are_strange(percent) {
                return Some(Doubt::Strange(count.names));
            }
            let allowed = count.entries as f64 * percent / 100.0;
            let few = if occasion == Occasion::Adopted { FEWEST_ADOPTED } else { FEWEST_AT_START };
            if count.deletions >= few && count.deletions as f64 > allowed {
                return Some(Doubt::TooMany);
            }
            let emptied = count.emptied.first().cloned().map(Doubt::DirectoryIsEmpty);
            emptied.or_else(|| count.turned.first().cloned().map(Doubt::NotADirectory))
        }
    }
}

/// Returns how many new entries may be copied so that the next run holds deletions, too. 0 if the
/// source has more new entries than that. `None` if copies do not hide anything.
fn create_budget(count: &Count, doubt: &Doubt, limit: Limit, occasion: Occasion) -> Option<u64> {
    let hides_nothing = match doubt {
        Doubt::TooMany | Doubt::SourceIsEmpty | Doubt::Strange(_) => false,
        // Few deletions are known: copies hide nothing of them.
        Doubt::Unknown => !is_much(count.deletions),
        // Copies elsewhere do not change this.
        Doubt::DirectoryIsEmpty(_) | Doubt::NotADirectory(_) | Doubt::NotWhole(_) => true,
    };
    if hides_nothing || matches!(limit, Limit::Number(_)) {
        return None;
    }
    // The next run is a start, for which the rules are less strict.
    let occasion = if is_much(count.deletions) { occasion } else { Occasion::Start };
    // Finds the greatest number with which deletions are still held, bit by bit.
    let must_be_complete = |new: u64| {
        let names = NameCount { all: count.names.all + new, shared: count.names.shared + new };
        let entries = count.entries.saturating_add(new);
        let copied = Count { entries, names, source_is_empty: false, ..count.clone() };
        matches!(judge_known(&copied, limit, occasion), Some(Doubt::TooMany | Doubt::Strange(_)))
    };
    let budget = (0..48).rev().fold(0, |budget, bit| {
        if must_be_complete(budget | 1 << bit) { budget | 1 << bit } else { budget }
    });
    // Only half of that, since there may be fewer deletions at the next count.
    Some(if count.new > budget / 2 { 0 } else { budget / 2 })
}

/// Logs that the guard holds deletions, which ones, and how to let them pass. Returns the command
/// for that.
pub fn log_held(
    count: &Count,
    doubt: &Doubt,
    (limit, occasion): (Limit, Occasion),
    rerun: &Rerun,
) -> String {
    let Count { deletions, entries, new, .. } = count;
    let what = match (doubt, &count.unknown) {
        (Doubt::Unknown, Some((dir, error))) => format!(
            "{dir} could not be read ({error}), so nobody knows how much would be deleted: at least {deletions} of the replica's entries."
        ),
        (Doubt::Strange(_), _) => {
            format!(
                "{deletions} of the replica's {entries} entries are not in the source, and {doubt}"
            )
        }
        (Doubt::TooMany, _) => format!(
            "{deletions} of the replica's {entries} entries are not in the source, and {doubt} ({limit}, see --max-delete)."
        ),
        _ => format!(
            "{deletions} of the replica's {entries} entries are not in the source, and {doubt}."
        ),
    };
    // The words have to be true of a dry run, too.
    let meanwhile = if count.new > 0 && create_budget(count, doubt, limit, occasion) == Some(0) {
        let waits = if *new == 1 {
            "entry that is new waits, since its copy"
        } else {
            "entries that are new wait, since their copies"
        };
        format!(
            "Deletions are held. {new} {waits} would make the share look small to the next run."
        )
    } else {
        "Deletions are held, copies are not.".to_owned()
    };
    let examples: Vec<String> = count.examples.iter().map(ToString::to_string).collect();
    let among = if examples.is_empty() {
        String::new()
    } else {
        format!(" Among them: {}.", examples.join(", "))
    };
    let advice = match doubt {
        Doubt::Unknown => {
            "Check that disk: they are mirrored once it can be read. If they are to be deleted anyway"
        }
        Doubt::Strange(_) => "If it is, and they are to be deleted",
        _ => "If they are to be deleted",
    };
    // An unknown number of deletions needs `100%`.
    let limit = if count.unknown.is_some() { "100%".to_owned() } else { deletions.to_string() };
    let how = if rerun.is_lasting {
        "stop this twindir, run this once, and start it again"
    } else {
        "run"
    };
    let command = rerun.once(&limit);
    tracing::warn!(
        op = "held",
        deletions,
        entries,
        "{what} {meanwhile}{among} {advice}, {how}: {command}"
    );
    command
}

/// Returns whether so large a number of deletions in one directory is a reason to hold them.
pub fn is_much(entries: u64) -> bool {
    entries >= FEWEST_AT_START
}

/// The guard's judgement of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Not counted yet.
    Unproven(Occasion),
    Trusted,
    /// Deletions are held. Each sweep counts again.
    Held(Held),
}

/// The details of held deletions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    occasion: Occasion,
    /// Number of the replica's entries when deletions were first held; `None` before the first
    /// count.
    baseline: Option<u64>,
    /// Number of new entries that may still be copied; `None` for no limit. With more copies, the
    /// next run would find a smaller share of deletions. It would trust the source because of its
    /// own copies.
    create_budget: Option<u64>,
    restored: Restored,
    told: Announced,
}

/// The condition under which the source is trusted again, once a count gives no reason to hold
/// deletions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Restored {
    AtOnce,
    /// At most this number of deletions is left. Otherwise a source that is being restored would be
    /// followed before it is complete.
    AtMost(u64),
    /// The source has everything that the replica has. It was not trusted even before the first
    /// count.
    Whole,
}

/// The last report about held deletions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announced {
    Nothing,
    Held,
    /// Deletions are held, and new entries wait.
    Waiting,
    /// Fewer entries are missing, but still too many.
    NotWhole,
}

impl Trust {
    /// Returns the state after a count that gives the reason `doubt` to hold deletions.
    pub fn after_doubt(self, count: &Count, doubt: &Doubt, limit: Limit) -> Self {
        let occasion = self.occasion();
        let create_budget = create_budget(count, doubt, limit, occasion);
        let restored = match (self, doubt, limit) {
            // A source that is being restored is counted in between. The first count sets the
            // threshold.
            (Trust::Held(held), ..) if held.restored != Restored::AtOnce => held.restored,
            // A plain number is an exact limit. An unknown number of deletions gives no threshold.
            (_, Doubt::Unknown, _) | (.., Limit::Number(_)) => Restored::AtOnce,
            // Fewer than `FEWEST_ADOPTED` deletions are no reason to hold them here either.
            _ => Restored::AtMost((count.deletions / RESTORED).max(FEWEST_ADOPTED - 1)),
        };
        let waits = count.new > 0 && create_budget == Some(0);
        let told = if waits || self.told() == Announced::Waiting {
            Announced::Waiting
        } else {
            Announced::Held
        };
        let baseline = Some(self.entries(count));
        Self::Held(Held { occasion, baseline, create_budget, restored, told })
    }

    /// Returns the state of a source that is not trusted before it is counted: it has to be
    /// complete. If `limit` is a plain number, or turns the guard off, it only has to be counted.
    pub fn requiring_complete(limit: Limit) -> Self {
        let (occasion, restored) = (Occasion::Adopted, Restored::Whole);
        match limit {
            Limit::Percent(percent) if percent < 100.0 => Self::Held(Held {
                occasion,
                baseline: None,
                create_budget: None,
                restored,
                told: Announced::Nothing,
            }),
            Limit::Percent(_) | Limit::Number(_) => Self::Unproven(occasion),
        }
    }

    /// Returns whether the source has to be complete, as [`Trust::requiring_complete`] demands. After a count
    /// a few deletions are allowed.
    pub fn must_be_complete(self) -> bool {
        matches!(self, Trust::Held(Held { restored: Restored::Whole, .. }))
    }

    /// Returns the state after a count that gives no reason to hold deletions. If they were held,
    /// the source has to meet its condition first. Otherwise the returned doubt is the reason.
    pub fn after_clean_count(self, count: &Count) -> (Self, Option<Doubt>) {
        let Trust::Held(held) = self else { return (Trust::Trusted, None) };
        let most = match held.restored {
            Restored::AtOnce => return (Trust::Trusted, None),
            Restored::AtMost(most) => most,
            Restored::Whole => 0,
        };
        if count.deletions <= most {
            return (Trust::Trusted, None);
        }
        let held = Held { create_budget: None, told: Announced::NotWhole, ..held };
        (Trust::Held(held), Some(Doubt::NotWhole(most)))
    }

    /// Returns whether the roots are those of the start, or one was adopted. [`Occasion::Start`] if
    /// the source is trusted.
    pub fn occasion(self) -> Occasion {
        match self {
            Trust::Unproven(occasion) | Trust::Held(Held { occasion, .. }) => occasion,
            Trust::Trusted => Occasion::Start,
        }
    }

    /// Returns the last report about held deletions.
    pub fn told(self) -> Announced {
        match self {
            Trust::Held(held) => held.told,
            Trust::Unproven(_) | Trust::Trusted => Announced::Nothing,
        }
    }

    /// Returns the number of entries of which deletions are a share. Copies made while deletions
    /// are held do not count. Otherwise a wrong source would be trusted because of its own copies.
    pub fn entries(self, count: &Count) -> u64 {
        match self {
            Trust::Held(Held { baseline: Some(baseline), .. }) => baseline.min(count.entries),
            Trust::Held(_) | Trust::Unproven(_) | Trust::Trusted => count.entries,
        }
    }

    /// Returns what a round for this detector may delete and create. If new entries are limited,
    /// only the sweep that follows a count creates them: what the watch reports may have changed
    /// since that count.
    pub fn deletions(self, detector: Detector) -> Deletions {
        let create_budget = match (self, detector) {
            (Trust::Trusted, _) => return Deletions::Followed,
            (Trust::Held(Held { create_budget: None, .. }), _) => None,
            (Trust::Held(Held { create_budget, .. }), Detector::Sweep) => create_budget,
            (Trust::Held(_), Detector::Watch) | (Trust::Unproven(_), _) => Some(0),
        };
        Deletions::Held { create_budget }
    }

    /// Allows no further new entry until the next count, if they are limited.
    pub fn clear_create_budget(&mut self) {
        if let Trust::Held(Held { create_budget: Some(budget), .. }) = self {
            *budget = 0;
        }
    }

    /// Notes that `number` entries were created.
    pub fn created(&mut self, number: u64) {
        if let Trust::Held(Held { create_budget: Some(budget), .. }) = self {
            *budget = budget.saturating_sub(number);
        }
    }
}

#[cfg(test)]
mod tests;
