//! A folder of its own for each test, with a source, a replica and a log.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{
    DEADLINE, Daemon, LogLine, Run, Tree, are_twins, assert_twins, is_root, is_temporary_name,
    set_mode, wait_until,
};

/// The user that stands for "an ordinary user" where the tests run as root: `nobody`.
const NOBODY: u32 = 65_534;

/// The test's folder. Commands run in it, so relative paths work. Removed at the end, locked
/// directories too.
pub struct Scratch {
    dir: TempDir,
    program: PathBuf,
    ordinary: bool,
}

impl Scratch {
    pub fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// Where writing many hundred megabytes costs little, if there is such a place.
    pub fn roomy() -> Self {
        let memory = Path::new("/dev/shm");
        let free = rustix::fs::statvfs(memory)
            .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        if free > 6_000_000_000
            && let Ok(dir) = tempfile::tempdir_in(memory)
        {
            return Self::within(dir);
        }
        Self::new()
    }

    /// The program runs as an ordinary user. Where the tests themselves run as root, trees are
    /// given to that user by `own`.
    pub fn ordinary() -> Self {
        let mut scratch = Self::new();
        if is_root() {
            scratch.ordinary = true;
            // The build folder may lie where that user cannot go. This process does not write the
            // copy itself: what other threads start meanwhile would hold it open for writing, and
            // then it could not be executed.
            let copy = scratch.path("twindir");
            let status = Command::new("cp").arg(&scratch.program).arg(&copy).status().unwrap();
            assert!(status.success(), "cp: {status}");
            set_mode(&copy, 0o755);
            scratch.program = copy;
            chown(scratch.root(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        scratch
    }

    fn within(dir: TempDir) -> Self {
        Self { dir, program: PathBuf::from(env!("CARGO_BIN_EXE_twindir")), ordinary: false }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub fn replica(&self) -> PathBuf {
        self.path("replica")
    }

    pub fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// The lines of the log so far.
    pub fn log_lines(&self) -> Vec<LogLine> {
        let log = fs::read_to_string(self.log()).unwrap();
        LogLine::parse_all(&log[..log.rfind('\n').map_or(0, |end| end + 1)])
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a shell script in the source.
    #[track_caller]
    pub fn sh(&self, script: &str) {
        let mut command = Command::new("sh");
        let run = command.args(["-ec", script]).current_dir(self.source()).output().unwrap();
        assert!(run.status.success(), "{script}\n{}", String::from_utf8_lossy(&run.stderr));
    }

    /// Makes a source of this tree.
    #[track_caller]
    pub fn with_source(self, tree: &Tree) -> Self {
        tree.make(&self.source());
        self.own(&self.source());
        self
    }

    /// Makes a replica of this tree.
    #[track_caller]
    pub fn with_replica(self, tree: &Tree) -> Self {
        tree.make(&self.replica());
        self.own(&self.replica());
        self
    }

    /// Gives a tree to the user that the program runs as. `chown` clears the setuid and setgid
    /// bits, so they are put back.
    #[track_caller]
    pub fn own(&self, at: &Path) {
        if !self.ordinary {
            return;
        }
        let metadata = fs::symlink_metadata(at).unwrap();
        std::os::unix::fs::lchown(at, Some(NOBODY), Some(NOBODY)).unwrap();
        if !metadata.is_symlink() {
            set_mode(at, metadata.permissions().mode() & 0o7777);
        }
        if metadata.is_dir() {
            for child in fs::read_dir(at).unwrap() {
                self.own(&child.unwrap().path());
            }
        }
    }

    /// The program with these arguments, in the test's folder.
    pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = Command::new(&self.program);
        self.prepare(&mut command);
        command.args(arguments);
        command
    }

    /// The same for a program that runs twindir in its turn.
    pub fn prepare(&self, command: &mut Command) {
        command.current_dir(self.root());
        if self.ordinary {
            command.uid(NOBODY).gid(NOBODY);
            // It would be root's, and closed to this user.
            command.env_remove("XDG_RUNTIME_DIR");
        }
    }

    /// Runs the program with these arguments to its end.
    #[track_caller]
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Run {
        Daemon::run(self.command(arguments))
    }

    /// `--once` from source to replica, with these arguments too.
    #[track_caller]
    pub fn once(&self, arguments: &[&str]) -> Run {
        self.run(["--once", "source", "replica"].iter().chain(arguments))
    }

    /// `--once`, which must end well and leave the replica equal.
    #[track_caller]
    pub fn sync(&self) -> Run {
        let run = self.once(&[]).expect(0);
        self.assert_twins();
        run
    }

    /// A daemon from source to replica with this interval.
    #[track_caller]
    pub fn daemon(&self, interval: &str) -> Daemon {
        Daemon::spawn(self.command(["--interval-only", "source", "replica", interval]))
    }

    /// A daemon that watches, with these options too, once it has said that all is equal. No sweep
    /// will help it: the interval is an hour.
    #[track_caller]
    pub fn watcher(&self, options: &[&str]) -> Daemon {
        let daemon = self.starting_watcher(options);
        daemon.wait_settled(1);
        daemon
    }

    /// The same while it still looks at both trees for the first time.
    #[track_caller]
    pub fn starting_watcher(&self, options: &[&str]) -> Daemon {
        Daemon::spawn(self.command(["source", "replica", "3600", "log"].iter().chain(options)))
    }

    #[track_caller]
    pub fn assert_twins(&self) {
        assert_twins(&self.source(), &self.replica());
    }

    /// Waits until a daemon has made them equal.
    #[track_caller]
    pub fn wait_twins(&self) {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if are_twins(&self.source(), &self.replica()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.assert_twins();
    }

    /// The temporary names that lie in the replica, at any depth.
    pub fn temporaries(&self) -> Vec<PathBuf> {
        temporaries(&self.replica())
    }
}

/// The temporary names that lie in a replica, at any depth. Directories may come and go meanwhile.
pub fn temporaries(replica: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    find_temporaries(replica, &mut found);
    found
}

fn find_temporaries(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if is_temporary_name(&entry.file_name()) {
            found.push(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_temporaries(&entry.path(), found);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !is_root() {
            unlock(self.root());
        }
    }
}

fn unlock(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unlock(&entry.path());
        }
    }
}
