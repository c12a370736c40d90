//! A daemon that watches, and what is asked of it while its source changes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{DEADLINE, Daemon, LogLine, Scratch, Tree, wait_until};

/// A source, and a daemon that watches it and that no sweep helps.
pub struct Live {
    // It ends before its folder goes: else it would begin its log anew there.
    pub daemon: Daemon,
    pub scratch: Scratch,
}

impl Live {
    #[track_caller]
    pub fn of(tree: &Tree) -> Self {
        Self::within(Scratch::new(), tree)
    }

    /// Where writing much costs little.
    #[track_caller]
    pub fn roomy(tree: &Tree) -> Self {
        Self::within(Scratch::roomy(), tree)
    }

    #[track_caller]
    fn within(scratch: Scratch, tree: &Tree) -> Self {
        let scratch = scratch.with_source(tree);
        let daemon = scratch.watcher(&[]);
        scratch.assert_twins();
        Self { daemon, scratch }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.scratch.source().join(name)
    }

    /// The same name in the replica.
    pub fn copy(&self, name: &str) -> PathBuf {
        self.scratch.replica().join(name)
    }

    /// Waits until both are equal, and sees that the watch alone has done it.
    #[track_caller]
    pub fn wait(&self) {
        self.scratch.wait_twins();
        assert_eq!(self.daemon.sweeps(), 1, "a sweep has helped\n{}", self.daemon.stdout());
    }

    /// Runs a shell script in the source.
    #[track_caller]
    pub fn sh(&self, script: &str) {
        self.scratch.sh(script);
    }

    /// Saves a file in the source; how long it takes until the replica shows it.
    #[track_caller]
    pub fn answer(&self, name: &str) -> Duration {
        self.answer_within(name, DEADLINE)
    }

    #[track_caller]
    pub fn answer_within(&self, name: &str, deadline: Duration) -> Duration {
        let text = format!("saved {:016x}", fastrand::u64(..));
        let copy = self.copy(name);
        fs::write(self.at(name), &text).unwrap();
        let begun = Instant::now();
        let shown = || fs::read(&copy).is_ok_and(|bytes| bytes == text.as_bytes());
        wait_until(&format!("the save of {name} is in the replica"), deadline, shown);
        begun.elapsed()
    }

    /// The lines of the log so far.
    pub fn lines(&self) -> Vec<LogLine> {
        self.scratch.log_lines()
    }

    /// Waits until the log has the actions that the console has: they have a writer each, and one
    /// may be behind the other.
    #[track_caller]
    fn wait_log(&self) {
        let in_log = || self.lines().iter().filter(|line| line.is_action()).count();
        wait_until("the log has it too", DEADLINE, || in_log() >= self.daemon.actions());
    }

    /// Does something in the source; the actions that the log has of it once all is equal and at
    /// rest.
    #[track_caller]
    pub fn actions_of(&self, change: impl FnOnce()) -> Vec<LogLine> {
        self.wait_log();
        let (before, said) = (self.lines().len(), self.daemon.settled());
        change();
        self.wait();
        self.daemon.wait_settled(said + 1);
        self.wait();
        self.wait_log();
        self.lines().drain(before..).filter(LogLine::is_action).collect()
    }
}
