//! Programs under test that run for a while, and what `/proc` says about them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{LOOK, rest};

/// A program that uses less in one `LOOK` is quiet: 2 % of one core.
const QUIET: Duration = Duration::from_millis(5);

/// A program under test. Dropped, it is killed, with all that it has started.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it, with all that it prints in a file.
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let output = File::create(&log).expect("a log file can be made");
        let errors = output.try_clone().expect("a file can be opened twice");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    /// Waits until `is_complete`, and until it has then been quiet for a while. Says what is wrong
    /// where that does not come true by the deadline.
    pub fn settle(
        &mut self,
        quiet: Duration,
        deadline: Duration,
        is_complete: impl Fn() -> bool,
    ) -> Result<(), String> {
        let begun = Instant::now();
        self.complete(deadline, is_complete)?;
        let mut since = Instant::now();
        let mut before = self.usage();
        while since.elapsed() < quiet {
            rest(LOOK);
            let now = self.usage();
            if now.since(&before).cpu > QUIET {
                since = Instant::now();
            }
            before = now;
            self.still_runs()?;
            if begun.elapsed() > deadline {
                return Err(format!("not quiet within {deadline:?}"));
            }
        }
        Ok(())
    }

    /// Waits until `is_complete`, however busy it is.
    pub fn complete(
        &mut self,
        deadline: Duration,
        is_complete: impl Fn() -> bool,
    ) -> Result<(), String> {
        let begun = Instant::now();
        while !is_complete() {
            rest(LOOK);
            self.still_runs()?;
            if begun.elapsed() > deadline {
                return Err(format!("not equal within {deadline:?}"));
            }
        }
        Ok(())
    }

    /// What it and its children have used up to now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for process in self.processes() {
            let dir = PathBuf::from(format!("/proc/{process}"));
            usage.memory += field(&dir.join("status"), "VmRSS:") * 1024;
            usage.peak += field(&dir.join("status"), "VmHWM:") * 1024;
            usage.cpu += ticks(&dir);
            for task in fs::read_dir(dir.join("task")).into_iter().flatten().flatten() {
                let counts = (
                    cpu_time(&task.path()),
                    field(&task.path().join("status"), "voluntary_ctxt_switches:"),
                );
                usage.threads.insert(task.path(), counts);
            }
        }
        usage
    }

    /// The last thing that it said, where it has ended.
    pub fn still_runs(&mut self) -> Result<(), String> {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            return Ok(());
        }
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Err(format!("it ended; it last said: {}", text.lines().last().unwrap_or("nothing")))
    }

    /// Its id, and those of all its descendants.
    fn processes(&self) -> Vec<i32> {
        let entries = fs::read_dir("/proc").expect("/proc is mounted");
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let parents: Vec<(i32, i32)> = ids.filter_map(|id| Some((id, parent(id)?))).collect();
        let mut family = vec![self.child.id().cast_signed()];
        let mut next = 0;
        while let Some(&member) = family.get(next) {
            family
                .extend(parents.iter().filter(|(_, parent)| *parent == member).map(|(id, _)| *id));
            next += 1;
        }
        family
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Once it has ended, its id may be another's.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        for process in self.processes() {
            let _ = Pid::from_raw(process).map(|id| kill_process(id, Signal::KILL));
        }
        let _ = self.child.wait();
    }
}

/// What a program has used: for each thread its time on a core and its voluntary switches, and for
/// all together the resident memory in bytes, now and at its most.
#[derive(Default)]
pub struct Usage {
    threads: HashMap<PathBuf, (Duration, u64)>,
    pub memory: u64,
    pub peak: u64,
    /// Of all threads, those that have ended too, in ticks of 10 ms.
    pub cpu: Duration,
}

/// The difference of two usages.
pub struct Spent {
    pub cpu: Duration,
    /// How often a thread went to sleep, and so how often one was woken.
    pub wakeups: u64,
    /// A thread ended in between, and what it used is missing.
    pub is_partial: bool,
}

impl Usage {
    pub fn since(&self, before: &Self) -> Spent {
        let is_partial = before.threads.keys().any(|thread| !self.threads.contains_key(thread));
        let mut spent = Spent { cpu: Duration::ZERO, wakeups: 0, is_partial };
        for (thread, (cpu, wakeups)) in &self.threads {
            let (cpu_then, wakeups_then) = before.threads.get(thread).copied().unwrap_or_default();
            spent.cpu += cpu.saturating_sub(cpu_then);
            spent.wakeups += wakeups.saturating_sub(wakeups_then);
        }
        spent
    }
}

/// A thread's time on a core: by `schedstat`, in ns, else by `stat`, in ticks of 10 ms.
fn cpu_time(task: &Path) -> Duration {
    let first = |text: String| text.split_whitespace().next()?.parse().ok();
    if let Some(nanos) = fs::read_to_string(task.join("schedstat")).ok().and_then(first) {
        return Duration::from_nanos(nanos);
    }
    ticks(task)
}

/// The time on a core of a process or thread, by `stat`.
fn ticks(dir: &Path) -> Duration {
    let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// The number behind `name` in a status file; 0 where it is gone.
pub fn field(status: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn parent(id: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}
