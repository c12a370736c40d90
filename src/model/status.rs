//! The status of a run, as it is reported to those who ask. Times are given as ages, in seconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::human::{counted, human_bytes, human_duration, with_separators};
use crate::model::task::Task;

/// The main loop turns at least once a second. After this time without a turn it counts as stalled.
const STALLED: Duration = Duration::from_secs(3);

/// The most problems that a status names.
pub const MOST_NAMED: usize = 100;

/// A job that has taken this long, in seconds, is named in the status line.
const LONG_JOB: f64 = 2.0;

/// The state of a run: the first of these that applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is known yet.
    #[default]
    Starting,
    /// The source or the replica is missing: the run waits for it.
    Lost,
    /// The guard counts the deletions to come.
    Counting,
    /// Deletions are held.
    Held,
    /// The replica is out of space.
    OutOfSpace,
    /// The first walk over both trees since the start, and the work that it has found.
    FirstCopy,
    /// Known changes are not mirrored yet.
    Busy,
    /// No work is under way, but some entries are not mirrored.
    Problems,
    /// Nothing is known to differ.
    InSync,
}

/// The progress of a walk over both trees.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WalkProgress {
    pub task: Task,
    /// Entries of the source compared so far.
    pub entries: u64,
    /// Their number at the last walk, if there was one.
    pub entries_before: Option<u64>,
    /// Bytes of both sides read so far for MD5s.
    pub bytes: u64,
    pub bytes_before: Option<u64>,
    pub seconds: f64,
}

/// What a job in the background does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobTask {
    /// Copies a big file.
    Copy,
    /// Reads both sides of a big file for their MD5s.
    Compare,
    /// Deletes what a removed directory held.
    Delete,
}

/// The job in the background that has run for longest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JobProgress {
    pub task: JobTask,
    pub path: Option<String>,
    /// Bytes; entries if it deletes.
    pub done: u64,
    pub total: Option<u64>,
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
    /// The reason.
    pub doubt: String,
    /// The shell command that lets them pass.
    pub command: String,
}

impl Held {
    /// Formats how many are held, and why, as a whole sentence.
    pub fn sentence(&self) -> String {
        let number = counted(self.deletions, "deletion is", "deletions are");
        let end = if self.doubt.ends_with('?') { "" } else { "." };
        format!("{number} held, since {}{end}", self.doubt)
    }
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub source: String,
    pub replica: String,
    pub state: State,
    /// Whether a walk over both trees has ended, and the work that it found is done.
    pub has_walked: bool,
    /// Whether nothing is known to differ, now.
    pub in_sync: bool,
    /// How long it has been in sync, if it is.
    pub in_sync_seconds: Option<f64>,
    /// Time since the run began.
    pub up_seconds: f64,
    /// Time since the main loop last turned, if it is stalled. A disk may not answer.
    pub stalled_seconds: Option<f64>,
    /// The missing root, in words, if one is missing.
    pub lost: Option<String>,
    /// Number of names that wait for a check.
    pub queued: usize,
    pub walk: Option<WalkProgress>,
    pub job: Option<JobProgress>,
    pub problems: usize,
    /// At most [`MOST_NAMED`] of them.
    pub open_problems: Vec<OpenProblem>,
    pub held: Option<Held>,
    /// Time since the last full sweep ended, and until the next one begins.
    pub last_full_sweep_seconds: Option<f64>,
    pub next_full_sweep_seconds: Option<f64>,
    /// Changes since the start that sweeps have found and the watch had not reported.
    pub missed: u64,
    /// Number of watched directories, and the kernel's limit for this user.
    pub watches: Option<u64>,
    pub watches_allowed: Option<u64>,
    /// Actions and copied bytes since the start of the run.
    pub actions: u64,
    pub copied_bytes: u64,
    /// Number of directories that could not be watched.
    pub unwatched: u64,
    /// Number of entries kept because their file system is no longer mounted in the source.
    pub kept: u64,
}

/// The result of a wait.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitResult {
    Mirrored,
    TimedOut,
    /// The reasons why something is not mirrored.
    Problem(Vec<String>),
}

impl Status {
    /// Adds `by` to all ages. From `STALLED` on, marks the run as stalled and not in sync.
    pub fn aged(mut self, by: Duration) -> Self {
        self.stalled_seconds = (by >= STALLED).then_some(by.as_secs_f64());
        // Nobody knows what has changed since.
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
        if let Some(job) = &mut self.job {
            job.seconds += by;
        }
        self
    }

    /// Formats the state as one line. `at` formats the time of day that lies the given number of
    /// seconds ago, or ahead if the number is negative.
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
        if let Some(job) = self.job.as_ref().filter(|job| job.seconds >= LONG_JOB) {
            parts.push(job.line());
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
            parts.push(
                "entries of file systems that are no longer mounted in the source are kept"
                    .to_owned(),
            );
        }
        if let Some(time) = self.stalled_seconds {
            parts.push(format!("one step takes {time:.0} s by now (does a disk not answer?)"));
        }
        parts.join(", ")
    }

    /// Formats the state in a few words.
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
            State::OutOfSpace => format!("out of space{}", queued()),
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

    /// Formats the whole status, with one line for each part.
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
        let last = self.last_full_sweep_seconds.map(at);
        let last = last.map_or("none yet".to_owned(), |last| format!("last {last}"));
        let next = self.next_full_sweep_seconds.map(|due| format!(", next {}", at(-due)));
        lines.push(format!("full sweep {last}{}", next.unwrap_or_default()));
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
            lines.push(format!(
                "           if they are to be deleted, stop this twindir, and run: {}",
                held.command
            ));
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

/// Bytes a second, over a second at least.
fn rate(bytes: u64, seconds: f64) -> String {
    let millis = Duration::from_secs_f64(seconds).as_millis().max(1_000);
    let rate = u128::from(bytes) * 1_000 / millis;
    human_bytes(u64::try_from(rate).unwrap_or(u64::MAX))
}

/// The time that the rest takes if a share of the work took `seconds`; `None` if that says little.
fn time_left(share: Option<f64>, seconds: f64) -> Option<String> {
    let left = (seconds * (1.0 / share? - 1.0)).max(0.0).round();
    (left >= 1.0 && left.is_finite() && seconds >= 2.0)
        .then(|| format!("{} left", human_duration(Duration::from_secs_f64(left))))
}

/// The share that is done; `None` if nobody knows of how much.
fn share(done: u64, total: Option<u64>) -> Option<f64> {
    let total = total.filter(|total| *total > 0)?;
    Some((done as f64 / total as f64).min(1.0))
}

impl JobProgress {
    /// What is done with which entry, how far it is, and how long it may take.
    fn line(&self) -> String {
        let path = self.path.as_deref().unwrap_or("a file");
        let word = match self.task {
            JobTask::Copy => "copying",
            JobTask::Compare => "hashing",
            JobTask::Delete => {
                return format!("deleting: {} entries so far", with_separators(self.done));
            }
        };
        let of = self.total.map(|total| format!(" of {}", human_bytes(total)));
        let mut parts = vec![format!(
            "{word} {path}: {}{} at {}/s",
            human_bytes(self.done),
            of.unwrap_or_default(),
            rate(self.done, self.seconds)
        )];
        parts.extend(time_left(share(self.done, self.total), self.seconds));
        parts.join(", ")
    }
}

impl WalkProgress {
    /// Formats the progress: entries done, bytes read, and the estimated time left.
    fn line(&self) -> String {
        let name = match self.task {
            Task::Count => "count",
            Task::Quick => "quick sweep",
            Task::Full => "full sweep",
        };
        let of = |now: u64, before: Option<u64>| match before {
            Some(before @ 1..) => {
                format!("{} of {}", with_separators(now), with_separators(before.max(now)))
            }
            _ => with_separators(now),
        };
        let mut parts = vec![format!("{name}: {} entries", of(self.entries, self.entries_before))];
        if self.bytes > 0 {
            let rate = rate(self.bytes, self.seconds);
            parts.push(format!("{} read at {rate}/s", human_bytes(self.bytes)));
        }
        parts.extend(time_left(self.share(), self.seconds));
        parts.join(", ")
    }

    /// Returns the share that is done (0 to 1), by the last walk's bytes, else by its entries.
    /// `None` if neither is known.
    fn share(&self) -> Option<f64> {
        let bytes = share(self.bytes, self.bytes_before);
        bytes.or(share(self.entries, self.entries_before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(job: JobProgress) -> String {
        let status = Status { state: State::Busy, job: Some(job), ..Status::default() };
        status.line(&|age| format!("{age} s ago"))
    }

    #[test]
    fn a_long_job_is_named_with_how_far_it_is() {
        let job = JobProgress {
            task: JobTask::Copy,
            path: Some("big.iso".into()),
            done: 1_000_000_000,
            total: Some(3_000_000_000),
            seconds: 5.0,
        };
        assert_eq!(
            line(job.clone()),
            "following changes, copying big.iso: 1.0 GB of 3.0 GB at 200.0 MB/s, 10 s left"
        );
        assert_eq!(line(JobProgress { seconds: 1.0, ..job.clone() }), "following changes");
        let hashing = line(JobProgress { task: JobTask::Compare, ..job.clone() });
        assert!(hashing.contains("hashing big.iso: "), "{hashing}");
        let deleting = JobProgress { task: JobTask::Delete, path: None, total: None, ..job };
        assert_eq!(
            line(JobProgress { done: 12_345, ..deleting }),
            "following changes, deleting: 12,345 entries so far"
        );
    }
}
