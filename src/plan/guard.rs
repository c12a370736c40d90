//! The guard: whether what the source lacks may go from the replica.
//!
//! It is about continuity. A source that is trusted is followed, whatever it deletes. At the
//! start of a run, and after another directory was adopted as the source, nobody knows whether
//! it is the right one and whole: then a count decides, before the first deletion.

use std::fmt;

use crate::model::check::Detector;
use crate::model::config::Rerun;
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::limit::Limit;
use crate::model::path::RelPath;
use crate::plan::deletions::Deletions;

/// Fewer deletions than this are never held by a percentage at the start of a run.
const FEW: u64 = 100;

/// Fewer deletions than this are no question, however little source and replica have in common, and
/// of an adopted root.
const STRANGE: u64 = 3;

/// Percentage of the replica's entries that must have a counterpart of the same name in the source.
const IN_COMMON: f64 = 10.0;

/// A source that was doubted is whole again when but one in so many of what it lacked is still
/// missing.
const RESTORED: u64 = 10;

/// When a count is made. An adopted root is more doubtful than one that the command line names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    Start,
    /// Another directory has come to stand at the path of a root.
    Adopted,
}

/// What a run would delete, counted before the first deletion.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Entries of the replica, as far as they can be compared.
    pub entries: u64,
    /// Entries of the source that the replica lacks, with all that they hold. Counted only where
    /// there may be a doubt ([`Count::asks_for_new`]).
    pub new: u64,
    /// Entries that the source lacks, with all that they hold.
    pub deletions: u64,
    /// How many names of the replica the source has too.
    pub names: NameCount,
    /// Whether the source holds nothing at all.
    pub source_is_empty: bool,
    /// Empty directories of the source against which the replica's hold [`FEW`] or more.
    pub emptied: Vec<RelPath>,
    /// Directories of the replica that hold so much, and are something else in the source.
    pub turned: Vec<RelPath>,
    /// Some of the entries that would go.
    pub examples: Vec<RelPath>,
    /// A directory that could not be looked into, by an error that may pass.
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
    /// Whether so few are shared that the two trees seem to have nothing to do with each other.
    /// `percent`: the limit on deletions; one of more than 90 % says that less may be shared.
    fn are_strange(self, percent: f64) -> bool {
        let wanted = IN_COMMON.min(100.0 - percent);
        self.all - self.shared >= STRANGE
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
    /// Of a directory that could not be looked into. What keeps this user out does so for good, and
    /// nothing below is deleted; after an error of the disk or the network there may be much to
    /// delete.
    pub fn unlisted(dir: &RelPath, error: FsError) -> Self {
        let lasts = error.is_dir_absence()
            || error.is_forbidden()
            || error.kind == FsErrorKind::OpensOtherDevice;
        Self { unknown: (!lasts).then(|| (dir.clone(), error)), ..Self::default() }
    }

    /// Whether it matters how many new entries there are: deletions may be held.
    pub fn asks_for_new(&self) -> bool {
        is_much(self.deletions) || self.names.are_strange(0.0) || 2 * self.deletions > self.entries
    }
}

/// Why deletions are held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Doubt {
    SourceIsEmpty,
    /// Source and replica have hardly a name in common.
    Strange(NameCount),
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
            Doubt::Strange(NameCount { all, shared }) => write!(
                f,
                "this replica shares {shared} of {all} entries with the source: is it the right one?"
            ),
            Doubt::DirectoryIsEmpty(dir) => write!(f, "the source's {dir}/ is empty"),
            Doubt::DirectoryIsNone(dir) => write!(f, "the source's {dir} is no directory any more"),
            Doubt::TooMany => write!(f, "that is more than may go unasked"),
            Doubt::NotWhole(most) => {
                write!(f, "deletions are followed again once no more than {most} are missing")
            }
            Doubt::Unknown => {
                write!(f, "a directory could not be looked into, where there may be more")
            }
        }
    }
}

/// Whether the count gives reason to doubt the source, or the replica.
pub fn judge(count: &Count, limit: Limit, occasion: Occasion) -> Option<Doubt> {
    let is_off = matches!(limit, Limit::Percent(percent) if percent >= 100.0);
    judge_known(count, limit, occasion)
        .or_else(|| (count.unknown.is_some() && !is_off).then_some(Doubt::Unknown))
}

fn judge_known(count: &Count, limit: Limit, occasion: Occasion) -> Option<Doubt> {
    match limit {
        Limit::Number(number) => (count.deletions > number).then_some(Doubt::TooMany),
        Limit::Percent(percent) if percent >= 100.0 => None,
        Limit::Percent(_) if count.source_is_empty && count.deletions >= STRANGE => {
            Some(Doubt::SourceIsEmpty)
        }
        Limit::Percent(percent) => {
            if count.names.are_strange(percent) {
                return Some(Doubt::Strange(count.names));
            }
            let allowed = count.entries as f64 * percent / 100.0;
            let few = if occasion == Occasion::Adopted { STRANGE } else { FEW };
            if count.deletions >= few && count.deletions as f64 > allowed {
                return Some(Doubt::TooMany);
            }
            let emptied = count.emptied.first().cloned().map(Doubt::DirectoryIsEmpty);
            emptied.or_else(|| count.turned.first().cloned().map(Doubt::DirectoryIsNone))
        }
    }
}

/// How many new entries may be copied so that the next run has a doubt too, 0 where the source has
/// more than that; `None` where copies hide nothing.
fn create_budget(count: &Count, doubt: &Doubt, limit: Limit, occasion: Occasion) -> Option<u64> {
    let hides_nothing = match doubt {
        Doubt::TooMany | Doubt::SourceIsEmpty | Doubt::Strange(_) => false,
        // Of what is not known there may be little.
        Doubt::Unknown => !is_much(count.deletions),
        // However much is copied elsewhere, it stays so.
        Doubt::DirectoryIsEmpty(_) | Doubt::DirectoryIsNone(_) | Doubt::NotWhole(_) => true,
    };
    if hides_nothing || matches!(limit, Limit::Number(_)) {
        return None;
    }
    // The next run is a start, where less is doubted.
    let occasion = if is_much(count.deletions) { occasion } else { Occasion::Start };
    // The greatest number with which the share is still too large, bit by bit.
    let is_doubted = |new: u64| {
        let names = NameCount { all: count.names.all + new, shared: count.names.shared + new };
        let entries = count.entries.saturating_add(new);
        let copied = Count { entries, names, source_is_empty: false, ..count.clone() };
        matches!(judge_known(&copied, limit, occasion), Some(Doubt::TooMany | Doubt::Strange(_)))
    };
    let budget = (0..48).rev().fold(0, |budget, bit| {
        if is_doubted(budget | 1 << bit) { budget | 1 << bit } else { budget }
    });
    // Half of that: what is to go may become less before it is counted again.
    Some(if count.new > budget / 2 { 0 } else { budget / 2 })
}

/// Says that the guard holds deletions, which, and how to let them pass.
pub fn log_held(
    count: &Count,
    doubt: &Doubt,
    (limit, occasion): (Limit, Occasion),
    rerun: &Rerun,
) -> String {
    let Count { deletions, entries, new, .. } = count;
    let what = match (doubt, &count.unknown) {
        (Doubt::Unknown, Some((dir, error))) => format!(
            "{dir} could not be looked into ({error}), so that nobody knows how much would go: {deletions} of the \
             replica's entries at least."
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
    // In words that are true of a dry run, too.
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
            "Check that disk: they are followed once it can be read. If they are to go unseen"
        }
        Doubt::Strange(_) => "If it is, and they are to go",
        _ => "If they are to go",
    };
    // What is not known has no number.
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

/// How many entries below one empty directory give reason to doubt it.
pub fn is_much(entries: u64) -> bool {
    entries >= FEW
}

/// What the guard makes of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Not counted yet.
    Unproven(Occasion),
    Trusted,
    /// Each sweep counts anew.
    Held(Held),
}

/// How deletions are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    occasion: Occasion,
    /// The replica's entries when the doubt arose; `None` before it was counted.
    baseline: Option<u64>,
    /// So many new entries may still be copied, where that is limited. With more, the next run
    /// would find a smaller share to be deleted, and trust the source for its own copies: then what
    /// is new waits too.
    create_budget: Option<u64>,
    restored: Restored,
    told: Announced,
}

/// When a source that was doubted is trusted again, besides that a count gives no reason for doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Restored {
    AtOnce,
    /// With no more than so many entries left to be deleted: a source that is being restored is not
    /// whole yet.
    AtMost(u64),
    /// Once it has all that the replica has: the source itself was in doubt before it was counted.
    Whole,
}

/// What was last said of deletions that are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announced {
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
        let occasion = self.occasion();
        let create_budget = create_budget(count, doubt, limit, occasion);
        let restored = match (self, doubt, limit) {
            // A source that is being restored is counted in between, too: what was missing at first
            // counts.
            (Trust::Held(held), ..) if held.restored != Restored::AtOnce => held.restored,
            // A plain number is taken at its word, and what is not known has none.
            (_, Doubt::Unknown, _) | (.., Limit::Number(_)) => Restored::AtOnce,
            // Fewer than are ever a question are none here either.
            _ => Restored::AtMost((count.deletions / RESTORED).max(STRANGE - 1)),
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

    /// Of a source that is in doubt before it is counted: it has to be whole. A plain number is
    /// taken at its word all the same, and where the guard is off, it is off.
    pub fn doubted(limit: Limit) -> Self {
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

    /// Whether it is that of [`Trust::doubted`]: what a count leads to lets a few deletions pass.
    pub fn is_doubted(self) -> bool {
        matches!(self, Trust::Held(Held { restored: Restored::Whole, .. }))
    }

    /// What is left of it where a count gives no reason for doubt. One that was doubted has to be
    /// whole first: else this doubt is what is said of it.
    pub fn restored(self, count: &Count) -> (Self, Option<Doubt>) {
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

    /// When the roots came to be what they are.
    pub fn occasion(self) -> Occasion {
        match self {
            Trust::Unproven(occasion) | Trust::Held(Held { occasion, .. }) => occasion,
            Trust::Trusted => Occasion::Start,
        }
    }

    /// What was last said of it, while deletions are held.
    pub fn told(self) -> Announced {
        match self {
            Trust::Held(held) => held.told,
            Trust::Unproven(_) | Trust::Trusted => Announced::Nothing,
        }
    }

    /// The replica's entries when the doubt arose. What is copied meanwhile makes no share of
    /// deletions smaller: else a wrong source would come to be trusted for its own copies.
    pub fn entries(self, count: &Count) -> u64 {
        match self {
            Trust::Held(Held { baseline: Some(baseline), .. }) => baseline.min(count.entries),
            Trust::Held(_) | Trust::Unproven(_) | Trust::Trusted => count.entries,
        }
    }

    /// What is followed of what a detector asks for. Where new entries are limited, only the sweep
    /// that follows a count brings them: what the watch tells may have changed what was counted.
    pub fn deletions(self, detector: Detector) -> Deletions {
        let create_budget = match (self, detector) {
            (Trust::Trusted, _) => return Deletions::Followed,
            (Trust::Held(Held { create_budget: None, .. }), _) => None,
            (Trust::Held(Held { create_budget, .. }), Detector::Sweep) => create_budget,
            (Trust::Held(_), Detector::Watch) | (Trust::Unproven(_), _) => Some(0),
        };
        Deletions::Held { create_budget }
    }

    /// Until it is counted again, nothing new is copied.
    pub fn clear_create_budget(&mut self) {
        if let Trust::Held(Held { create_budget: Some(budget), .. }) = self {
            *budget = 0;
        }
    }

    /// Notes that so many entries were created.
    pub fn created(&mut self, number: u64) {
        if let Trust::Held(Held { create_budget: Some(budget), .. }) = self {
            *budget = budget.saturating_sub(number);
        }
    }
}

#[cfg(test)]
mod tests;
