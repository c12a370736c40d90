//! File systems that are mounted for one test alone, in a mount namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{DEADLINE, Daemon, Run, Scratch, is_root, skip, wait_until};

/// A mount namespace, kept by a process that does nothing. What is mounted in it goes with it.
///
/// Scripts and daemons run in it; the test looks in by `inside`.
pub struct Mounts {
    keeper: Child,
    folder: PathBuf,
}

impl Mounts {
    /// `None`, and a line that says why, where that cannot be done here.
    #[track_caller]
    pub fn of(scratch: &Scratch) -> Option<Self> {
        let probe = Command::new("unshare").args(["-m", "true"]).output();
        if !is_root() || !probe.is_ok_and(|output| output.status.success()) {
            skip("mounts need root and a mount namespace");
            return None;
        }
        let mut command = Command::new("unshare");
        // It waits for input that never comes, and so for the end of this test, however that comes.
        command.args(["-m", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mounts = Self { keeper: command.spawn().unwrap(), folder: scratch.root().to_owned() };
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        let own = namespace("self");
        let keeper = mounts.keeper.id().to_string();
        wait_until("it has a namespace of its own", DEADLINE, || namespace(&keeper) != own);
        Some(mounts)
    }

    /// A program in the namespace and in the test's folder.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.keeper.id().to_string();
        command.args(["-m", "-t", &target, "sh", "-ec", r#"cd "$0"; exec "$@""#]);
        command.arg(&self.folder).arg(program.as_ref());
        command
    }

    /// Runs a shell script in the test's folder, which must end well.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Run {
        let mut command = self.command("sh");
        command.args(["-ec", script]);
        Daemon::run(command).expect(0)
    }

    /// The same for what this machine may lack: `None`, and a line with the reason.
    #[track_caller]
    pub fn try_sh(&self, script: &str) -> Option<Run> {
        let mut command = self.command("sh");
        command.args(["-ec", script]);
        let run = Daemon::run(command);
        if run.code == Some(0) {
            return Some(run);
        }
        skip(&format!("{script}: {}", run.stderr.trim()));
        None
    }

    /// How this test sees what has this path in the namespace.
    pub fn inside(&self, at: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(at.strip_prefix("/").expect("an absolute path"))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
