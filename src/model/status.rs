//! What a run does, as somebody is told who asks. Times are ages, in seconds: whoever shows them
//! has a clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::human::{counted, human_bytes, human_duration, with_separators};
use crate::model::task::Task;

/// The loop comes round at least once a second. One that does not for so long is stalled.
const STALLED: Duration = Duration::from_secs(3);

/// At most so many problems are named.
pub const MOST_NAMED: usize = 100;

/// What a run is at. The first that is true, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is known yet.
    #[default]
    Starting,
    /// The source, or the replica, is not there: it is waited for.
    Lost,
    /// The guard counts what would be deleted.
    Counting,
    /// Deletions are held.
    Held,
    /// The replica takes no more.
    OutOfSpace,
    /// The first walk over both trees since the start, and what it has found.
    FirstCopy,
    /// Changes are known and not followed yet.
    Busy,
    /// Nothing is under way, and some entries could not be mirrored.
    Problems,
    /// Nothing is known to differ.
    InSync,
}

/// A walk over both trees that runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WalkProgress {
    pub task: Task,
    /// Entries of the source that were compared so far.
    pub entries: u64,
    /// How many there were at the last walk, where there was one.
    pub entries_before: Option<u64>,
    /// Bytes that were read so far for MD5s, of both sides.
    pub bytes: u64,
    pub bytes_before: Option<u64>,
    pub seconds: f64,
}

/// An entry that could not be mirrored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenProblem {
    pub path: String,
    pub what: String,
}

/// Deletions that are held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    pub deletions: u64,
    /// Why.
    pub doubt: String,
    /// What lets them go, for a shell.
    pub command: String,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub source: String,
    pub replica: String,
    pub state: State,
    /// Whether both trees were walked once, and what was found was done.
    pub has_walked: bool,
    /// Whether nothing is known to differ, now.
    pub in_sync: bool,
    /// For how long, if so.
    pub in_sync_seconds: Option<f64>,
    /// How long ago the run began.
    pub up_seconds: f64,
    /// For how long the loop has not come round, where that is long: a disk may not answer.
    pub stalled_seconds: Option<f64>,
    /// What is lost, if something is.
    pub lost: Option<String>,
    /// Names that are to be looked at.
    pub queued: usize,
    pub walk: Option<WalkProgress>,
    pub problems: usize,
    /// Some of them.
    pub open_problems: Vec<OpenProblem>,
    pub held: Option<Held>,
    /// How long ago the last full sweep came to its end, and in how long the next one begins.
    pub last_full_sweep_seconds: Option<f64>,
    pub next_full_sweep_seconds: Option<f64>,
    /// Changes since the start that sweeps have found and the watch had not told.
    pub missed: u64,
    /// Directories that are watched, and how many the kernel allows this user.
    pub watches: Option<u64>,
    pub watches_allowed: Option<u64>,
    /// Since the start of the run.
    pub actions: u64,
    pub copied_bytes: u64,
    /// Directories that could not be watched.
    pub unwatched: u64,
    /// Entries that are kept of file systems which are no longer mounted in the source.
    pub kept: u64,
}

/// What came of a wait.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitResult {
    Mirrored,
    TimedOut,
    /// What keeps some of it from the replica.
    Problem(Vec<String>),
}

impl Status {
    /// As it is some time later, if nothing has happened meanwhile.
    pub fn aged(mut self, by: Duration) -> Self {
        self.stalled_seconds = (by >= STALLED).then_some(by.as_secs_f64());
        // What has happened meanwhile nobody knows.
        self.in_sync &= by < STALLED;
        let by = by.as_secs_f64();
        self.up_seconds += by;
        for age in [&mut self.in_sync_seconds, &mut self.last_full_sweep_seconds] {
            *age = age.map(|age| age + by);
        }
        self.next_full_sweep_seconds = self.next_full_sweep_seconds.map(|due| (due - by).max(0.0));
        if let Some(walk) = &mut self.walk {
            walk.seconds += by;
        }
        self
    }

    /// One line: what it does now. `at`: the time of day so many seconds ago (or, of a negative
    /// number, ahead).
    pub fn line(&self, at: &dyn Fn(f64) -> String) -> String {
        let mut parts = vec![self.headline(at)];
        if let Some(walk) = &self.walk
            && self.state != State::FirstCopy
            && self.state != State::Counting
        {
            parts.push(walk.line());
        } else if let Some(due) = self.next_full_sweep_seconds
            && self.walk.is_none()
            && matches!(self.state, State::InSync | State::Problems | State::Held)
        {
            parts.push(format!("next full sweep {}", at(-due)));
        }
        if self.problems > 0 && self.state != State::Problems {
            parts.push(counted(self.problems as u64, "problem", "problems"));
        }
        if let Some(held) = &self.held
            && self.state != State::Held
        {
            parts.push(format!("{} held", counted(held.deletions, "deletion", "deletions")));
        }
        if self.kept > 0 {
            parts.push("what is no longer mounted in the source is kept".to_owned());
        }
        if let Some(time) = self.stalled_seconds {
            parts.push(format!("one step takes {time:.0} s by now (does a disk not answer?)"));
        }
        parts.join(", ")
    }

    /// What it is at, in a few words.
    fn headline(&self, at: &dyn Fn(f64) -> String) -> String {
        let queued = || match self.queued {
            0 => String::new(),
            1 => ", 1 name waiting".to_owned(),
            number => format!(", {} names waiting", with_separators(number as u64)),
        };
        match self.state {
            State::Starting => "starting".to_owned(),
            State::Lost => {
                format!("waiting: {}", self.lost.as_deref().unwrap_or("a directory is not there"))
            }
            State::Counting => match &self.walk {
                Some(walk) => format!("counting what would be deleted, {:.0} s", walk.seconds),
                None => "counting what would be deleted".to_owned(),
            },
            State::Held => {
                let number = self.held.as_ref().map_or(0, |held| held.deletions);
                format!("{} held", counted(number, "deletion", "deletions"))
            }
            State::OutOfSpace => format!("the replica is full{}", queued()),
            State::FirstCopy => {
                let walk = self.walk.as_ref().map(WalkProgress::line);
                let walk = walk.map_or(String::new(), |walk| format!(", {walk}"));
                format!(
                    "first copy: {} entries done, {} copied{walk}{}",
                    with_separators(self.actions),
                    human_bytes(self.copied_bytes),
                    queued(),
                )
            }
            State::Busy => format!("following changes{}", queued()),
            State::Problems if self.problems == 0 => "not in sync".to_owned(),
            State::Problems => counted(self.problems as u64, "problem", "problems"),
            State::InSync => match self.in_sync_seconds {
                Some(age) => format!("in sync since {}", at(age)),
                None => "in sync".to_owned(),
            },
        }
    }

    /// All of it, a line each.
    pub fn lines(&self, at: &dyn Fn(f64) -> String) -> Vec<String> {
        let mut lines = vec![
            format!("{} -> {}", self.source, self.replica),
            format!("state      {}", self.line(at)),
            format!(
                "running    twindir {}, pid {}, since {}",
                self.version,
                self.pid,
                at(self.up_seconds)
            ),
            format!(
                "done       {}, {} copied",
                counted(self.actions, "action", "actions"),
                human_bytes(self.copied_bytes)
            ),
            format!("queue      {}", counted(self.queued as u64, "name", "names")),
        ];
        let last = self.last_full_sweep_seconds.map_or("none yet".to_owned(), at);
        let next = self.next_full_sweep_seconds.map(|due| format!(", next {}", at(-due)));
        lines.push(format!("full sweep last {last}{}", next.unwrap_or_default()));
        if let Some(watches) = self.watches {
            let allowed = self.watches_allowed.map(|number| format!(" of {number} allowed"));
            lines.push(format!(
                "watch      {}{}, {} missed by it",
                counted(watches, "directory", "directories"),
                allowed.unwrap_or_default(),
                counted(self.missed, "change", "changes"),
            ));
        } else {
            lines.push("watch      none: changes are found by sweeps".to_owned());
        }
        if self.unwatched > 0 {
            lines.push(format!(
                "unwatched  {}",
                counted(self.unwatched, "directory", "directories")
            ));
        }
        if let Some(held) = &self.held {
            lines.push(format!(
                "held       {}: {}",
                counted(held.deletions, "deletion", "deletions"),
                held.doubt
            ));
            lines.push(format!("           to let them go: {}", held.command));
        }
        for problem in &self.open_problems {
            lines.push(format!("problem    {}: {}", problem.path, problem.what));
        }
        if self.problems > self.open_problems.len() {
            let more = (self.problems - self.open_problems.len()) as u64;
            lines.push(format!("           and {} more", counted(more, "problem", "problems")));
        }
        lines
    }
}

impl WalkProgress {
    /// How far it is, of how much, and how long it may take.
    fn line(&self) -> String {
        let name = match self.task {
            Task::Count => "count",
            Task::Quick => "quick sweep",
            Task::Full => "full sweep",
        };
        let share = self.share();
        let of = |now: u64, before: Option<u64>| match before {
            Some(before @ 1..) => {
                format!("{} of {}", with_separators(now), with_separators(before.max(now)))
            }
            _ => with_separators(now),
        };
        let mut parts = vec![format!("{name}: {} entries", of(self.entries, self.entries_before))];
        if self.bytes > 0 {
            let millis = Duration::from_secs_f64(self.seconds).as_millis().max(1_000);
            let rate = u128::from(self.bytes) * 1_000 / millis;
            let rate = human_bytes(u64::try_from(rate).unwrap_or(u64::MAX));
            parts.push(format!("{} read at {rate}/s", human_bytes(self.bytes)));
        }
        let left = share.map(|share| (self.seconds * (1.0 / share - 1.0)).max(0.0).round());
        let is_known = |left: &f64| *left >= 1.0 && left.is_finite() && self.seconds >= 2.0;
        if let Some(left) = left.filter(is_known) {
            parts.push(format!("{} left", human_duration(Duration::from_secs_f64(left))));
        }
        parts.join(", ")
    }

    /// How much of it is done, by what the last one had; `None` where nobody knows.
    fn share(&self) -> Option<f64> {
        let share = |now: u64, before: Option<u64>| {
            before.filter(|before| *before > 0).map(|before| now as f64 / before as f64)
        };
        let bytes = share(self.bytes, self.bytes_before);
        bytes.or(share(self.entries, self.entries_before)).map(|share| share.min(1.0))
    }
}
