//! The real binary, running.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, wait_until};

/// How long a run that ends by itself may take.
const RUN_LIMIT: Duration = Duration::from_secs(100);

/// A run that has ended.
#[derive(Debug)]
pub struct Run {
    /// None where a signal killed it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    #[track_caller]
    pub fn stderr_has(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} on stderr\n{self}");
        self
    }

    /// The lines on stdout that say that an entry was created, updated or removed.
    pub fn actions(&self) -> Vec<&str> {
        let action = |line: &&str| {
            let word = line.split_whitespace().nth(1);
            matches!(word, Some("created" | "updated" | "removed"))
        };
        self.stdout.lines().filter(action).collect()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {:?}", self.code)?;
        writeln!(f, "--- stdout\n{}", shortened(&self.stdout))?;
        writeln!(f, "--- stderr\n{}", shortened(&self.stderr))
    }
}

fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= 60 {
        return text.to_owned();
    }
    let (head, tail) = (&lines[..20], &lines[lines.len() - 40..]);
    format!("{}\n[...]\n{}", head.join("\n"), tail.join("\n"))
}

/// A process that is killed at the end of the test, and whose output is kept.
pub struct Daemon {
    child: Child,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Daemon {
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut daemon = Self::spawn_as_is(command);
        daemon.stdout = collect(daemon.child.stdout.take(), &mut daemon.readers);
        daemon.stderr = collect(daemon.child.stderr.take(), &mut daemon.readers);
        daemon
    }

    /// Leaves stdout and stderr to the command.
    #[track_caller]
    pub fn spawn_as_is(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        // A program just copied may still be open for writing in a child that another test is about
        // to start.
        let end = Instant::now() + DEADLINE;
        let child = loop {
            match command.spawn() {
                Err(error)
                    if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                        && Instant::now() < end =>
                {
                    std::thread::yield_now();
                }
                other => break other.unwrap_or_else(|error| panic!("{command:?}: {error}")),
            }
        };
        Self { child, stdout: Arc::default(), stderr: Arc::default(), readers: Vec::new() }
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().unwrap()).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn sweeps(&self) -> usize {
        self.count(" sweep    full, ")
    }

    /// How many actions it has reported.
    pub fn actions(&self) -> usize {
        let stdout = self.stdout();
        let words = stdout.lines().filter_map(|line| line.split_whitespace().nth(1));
        words.filter(|word| ["created", "updated", "removed", "renamed"].contains(word)).count()
    }

    /// How often it has said that all is equal.
    pub fn settled(&self) -> usize {
        self.count("in sync as of ")
    }

    fn count(&self, text: &str) -> usize {
        let stdout = self.stdout();
        stdout.lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until `more` further sweeps have ended. After two, one of them began after the call.
    #[track_caller]
    pub fn wait_sweeps(&self, more: usize) {
        let before = self.sweeps();
        wait_until("further sweeps have ended", DEADLINE, || self.sweeps() >= before + more);
    }

    #[track_caller]
    pub fn wait_settled(&self, times: usize) {
        wait_until("it says `in sync as of`", DEADLINE, || self.settled() >= times);
    }

    pub fn signal(&self, signal: Signal) {
        // Not yet waited for, so the number is still its own.
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end, at most `limit`; fails, and kills it, where that takes longer.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Run {
        let end = Instant::now() + limit;
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "still running after {limit:?}");
            std::thread::sleep(Duration::from_millis(2));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Run { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Runs a command that ends by itself.
    #[track_caller]
    pub fn run(command: Command) -> Run {
        Self::spawn(command).wait(RUN_LIMIT)
    }

    /// Whether it holds a descriptor of something at or below `root`.
    pub fn holds_open(&self, root: &Path) -> bool {
        let Ok(list) = std::fs::read_dir(format!("/proc/{}/fd", self.pid())) else {
            return false;
        };
        list.flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|target| target.starts_with(root))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- stdout\n{}", shortened(&self.stdout()));
            eprintln!("--- stderr\n{}", shortened(&self.stderr()));
        }
    }
}

fn collect(
    stream: Option<impl Read + Send + 'static>,
    readers: &mut Vec<JoinHandle<()>>,
) -> Arc<Mutex<Vec<u8>>> {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&bytes);
    let mut stream = stream.expect("a pipe");
    readers.push(std::thread::spawn(move || {
        let mut buffer = [0; 16_384];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            sink.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
    }));
    bytes
}
