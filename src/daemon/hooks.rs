//! Hooks: the user's commands that are run after changes, and when a problem begins or ends. A
//! thread runs them one after the other, so that the loop never waits for them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::fs::{MemfdFlags, memfd_create};
use signal_hook::consts::{SIGCONT, SIGUSR1, SIGWINCH};

use crate::model::config::Hooks as Commands;
use crate::model::path::RelPath;
use crate::model::status::{State, Status};
use crate::report::{Done, Operation};

/// How long a hook may run before it is killed.
const LIMIT: Duration = Duration::from_secs(60);

/// The least time between two runs of `--on-sync`.
const APART: Duration = Duration::from_secs(1);

/// How often to check whether a hook has ended.
const POLL: Duration = Duration::from_millis(20);

/// The most changed paths that a hook gets by name. Further ones are only counted.
const MOST_PATHS: usize = 100_000;

/// The most bytes of a hook's stderr that are logged if it fails.
const SHOWN: usize = 500;

/// The actions since the last run of `--on-sync`.
#[derive(Default)]
struct Changes {
    created: u64,
    updated: u64,
    removed: u64,
    renamed: u64,
    bytes: u64,
    paths: Vec<RelPath>,
    are_too_many: bool,
}

/// One run of a hook.
struct Run {
    option: &'static str,
    command: OsString,
    variables: Vec<(&'static str, OsString)>,
    input: Vec<u8>,
}

/// The hooks of a run, and what they have still to report.
pub(super) struct Hooks {
    commands: Commands,
    runs: Option<Sender<Run>>,
    thread: Option<JoinHandle<()>>,
    roots: [OsString; 2],
    changes: Changes,
    last: Option<Instant>,
    /// The kind of problem that `--on-problem` has last reported; `None` for no problem.
    trouble: Option<&'static str>,
    /// A run of `--on-problem` that the thread has not received yet.
    due: Option<Run>,
}

impl Hooks {
    pub fn start(commands: Commands, roots: [OsString; 2]) -> std::io::Result<Self> {
        let is_any = commands.on_sync.is_some() || commands.on_problem.is_some();
        let (runs, inbox) = bounded::<Run>(1);
        let builder = std::thread::Builder::new().name("twindir-hook".into());
        let thread =
            is_any.then(|| builder.spawn(move || inbox.iter().for_each(Run::run))).transpose()?;
        let runs = thread.as_ref().map(|_| runs);
        let changes = Changes::default();
        Ok(Self { commands, runs, thread, roots, changes, last: None, trouble: None, due: None })
    }

    /// Notes the actions of a round, if there is a hook for them.
    pub fn note(&mut self, done: &[Done]) {
        if self.commands.on_sync.is_none() {
            return;
        }
        for done in done {
            let changes = &mut self.changes;
            *match done.operation {
                Operation::Created => &mut changes.created,
                Operation::Updated => &mut changes.updated,
                Operation::Removed => &mut changes.removed,
                Operation::Renamed => &mut changes.renamed,
            } += 1;
            changes.bytes += done.bytes.unwrap_or(0);
            if changes.paths.len() < MOST_PATHS {
                changes.paths.push(done.path.clone());
            } else {
                changes.are_too_many = true;
            }
        }
    }

    /// Returns whether there are actions that `--on-sync` has not reported.
    pub fn has_changes(&self) -> bool {
        let Changes { created, updated, removed, renamed, .. } = self.changes;
        created + updated + removed + renamed > 0
    }

    /// Runs the hooks that are due. While one runs and another one waits, nothing more is started.
    pub fn run_due(&mut self, status: &Status, now: Instant) {
        if self.runs.is_none() {
            return;
        }
        self.note_trouble(status);
        if self.runs.as_ref().is_some_and(Sender::is_full) {
            return;
        }
        if let Some(run) = self.due.take() {
            self.due = self.hand_over(run);
            return;
        }
        let is_apart = self.last.is_none_or(|last| now.duration_since(last) >= APART);
        if let (Some(command), true) = (&self.commands.on_sync, is_apart)
            && status.in_sync
            && self.has_changes()
        {
            let changes = std::mem::take(&mut self.changes);
            let run = self.after_changes(command.clone(), &changes);
            // If another run came first, the next run reports these changes.
            if self.hand_over(run).is_some() {
                self.changes = changes;
            } else {
                self.last = Some(now);
            }
        }
    }

    /// Runs the hooks that are still due at the end of a single run, and waits for them. A signal
    /// that is to end the run ends the wait.
    pub fn finish(&mut self, status: &Status, signals: &Receiver<i32>) {
        let ends = |signal| ![SIGUSR1, SIGCONT, SIGWINCH].contains(&signal);
        let is_stopped = || signals.try_iter().any(ends);
        self.last = None;
        self.note_trouble(status);
        while self.runs.is_some() && (self.due.is_some() || (status.in_sync && self.has_changes()))
        {
            self.run_due(status, Instant::now());
            if is_stopped() {
                return;
            }
            std::thread::sleep(POLL);
        }
        self.runs = None;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && !is_stopped() {
            std::thread::sleep(POLL);
        }
    }

    /// Passes a run to the thread. Returns it if another one waits there.
    fn hand_over(&self, run: Run) -> Option<Run> {
        match self.runs.as_ref()?.try_send(run) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            Err(TrySendError::Full(run)) => Some(run),
        }
    }

    fn variables(&self) -> Vec<(&'static str, OsString)> {
        let [source, replica] = self.roots.clone();
        vec![("TWINDIR_SOURCE", source), ("TWINDIR_REPLICA", replica)]
    }

    fn after_changes(&self, command: OsString, changes: &Changes) -> Run {
        let mut variables = self.variables();
        let numbers = [
            ("TWINDIR_CREATED", changes.created),
            ("TWINDIR_UPDATED", changes.updated),
            ("TWINDIR_REMOVED", changes.removed),
            ("TWINDIR_RENAMED", changes.renamed),
            ("TWINDIR_BYTES", changes.bytes),
            ("TWINDIR_TRUNCATED", changes.are_too_many.into()),
        ];
        variables.extend(numbers.map(|(name, number)| (name, number.to_string().into())));
        let mut input = Vec::new();
        for path in &changes.paths {
            input.extend_from_slice(path.as_bytes());
            input.push(0);
        }
        Run { option: "--on-sync", command, variables, input }
    }

    /// Prepares a run of `--on-problem` if the kind of problem has changed. It replaces one that
    /// the thread has not received yet.
    fn note_trouble(&mut self, status: &Status) {
        let Some(command) = self.commands.on_problem.clone() else { return };
        let kind = match status.state {
            State::Lost => Some("lost"),
            _ if status.held.is_some() => Some("held"),
            State::OutOfSpace => Some("out_of_space"),
            _ if status.problems > 0 => Some("problem"),
            // Nothing is known yet.
            State::Starting | State::Counting => return,
            _ => None,
        };
        if kind == self.trouble {
            return;
        }
        let before = std::mem::replace(&mut self.trouble, kind);
        let text = match (&status.lost, &status.held, status.open_problems.first()) {
            (Some(lost), _, _) => lost.clone(),
            (_, Some(held), _) => format!("{}: {}", held.doubt, held.command),
            (_, _, Some(problem)) => format!("{}: {}", problem.path, problem.what),
            _ => String::new(),
        };
        let mut variables = self.variables();
        let event = if kind.is_some() { "begin" } else { "end" };
        variables.extend([
            ("TWINDIR_EVENT", event.into()),
            ("TWINDIR_KIND", kind.or(before).unwrap_or_default().into()),
            ("TWINDIR_PROBLEMS", status.problems.to_string().into()),
            ("TWINDIR_TEXT", text.clone().into()),
        ]);
        let input = format!("{text}\n").into_bytes();
        self.due = Some(Run { option: "--on-problem", command, variables, input });
    }
}

impl Run {
    /// Runs the hook to its end. Logs failures.
    fn run(self) {
        let option = self.option;
        match self.try_run() {
            Ok((Some(status), _)) if status.success() => {
                tracing::debug!(op = "hook", "{option} has run");
            }
            Ok((Some(status), said)) => {
                tracing::warn!(op = "hook", "{option} failed, {status}{said}");
            }
            Ok((None, said)) => tracing::warn!(
                op = "hook",
                "{option} took longer than {} s and was ended{said}",
                LIMIT.as_secs()
            ),
            Err(error) => tracing::warn!(op = "hook", "cannot run {option}: {error}"),
        }
    }

    /// Returns the exit status (`None` if it was killed), and what it wrote to stderr as text for
    /// the log.
    fn try_run(self) -> io::Result<(Option<ExitStatus>, String)> {
        // The hook may read nothing, and may outlive twindir. A file, unlike a pipe, blocks
        // neither.
        let mut input = File::from(memfd_create("twindir-hook", MemfdFlags::CLOEXEC)?);
        input.write_all(&self.input)?;
        input.rewind()?;
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(&self.command)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // With a process group of its own, its children can be killed too.
            .process_group(0);
        // Only twindir itself reports to the service manager.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        let mut child = command.spawn()?;
        let mut stderr = child.stderr.take();
        if let Some(stderr) = &stderr {
            rustix::io::ioctl_fionbio(stderr, true)?;
        }
        let mut said = Vec::new();
        let begun = Instant::now();
        let ended = loop {
            listen(stderr.as_mut(), &mut said);
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if begun.elapsed() < LIMIT => std::thread::sleep(POLL),
                Ok(None) | Err(_) => {
                    kill(&child);
                    child.wait()?;
                    break None;
                }
            }
        };
        // Later output of its background processes is ignored.
        listen(stderr.as_mut(), &mut said);
        let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
        Ok((ended, if said.is_empty() { said } else { format!(": {said}") }))
    }
}

/// Reads all available output. Keeps the first [`SHOWN`] bytes of the whole.
fn listen(stderr: Option<&mut ChildStderr>, said: &mut Vec<u8>) {
    let Some(stderr) = stderr else { return };
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut piece) {
        said.extend_from_slice(&piece[..read.min(SHOWN.saturating_sub(said.len()))]);
    }
}

fn kill(child: &Child) {
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}
