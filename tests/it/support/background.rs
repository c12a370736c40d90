//! What goes on beside a test until the test has seen enough.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use fastrand::Rng;

/// A thread that does the same again and again. It ends with this.
pub struct Background<S> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<S>>,
}

impl<S: Send + 'static> Background<S> {
    /// `work` is called with what it works on until this is stopped.
    pub fn start(mut subject: S, mut work: impl FnMut(&mut S) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                work(&mut subject);
            }
            subject
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it after its present step, and fails where that failed. Gives back what it worked on.
    #[track_caller]
    pub fn stop(mut self) -> S {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<S> Drop for Background<S> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Changes of all kinds in a tree of a bounded size, by chance.
pub struct Churn {
    root: PathBuf,
    rng: Rng,
    pub steps: u64,
}

impl Churn {
    pub fn new(root: PathBuf, seed: u64) -> Self {
        Self { root, rng: Rng::with_seed(seed), steps: 0 }
    }

    pub fn step(&mut self) {
        use std::fs;
        self.steps += 1;
        // A step may meet what an earlier one took away: then it does nothing.
        let _ = match self.rng.u8(..12) {
            0..4 => self.save(),
            4 => self.append(),
            5 => fs::rename(self.file(), self.file()),
            6 => fs::remove_file(self.file()),
            7 | 8 => fs::create_dir_all(self.dir()),
            9 => fs::remove_dir_all(self.dir()),
            10 => fs::rename(self.dir(), self.dir()),
            _ => self.set_time(),
        };
    }

    fn dir(&mut self) -> PathBuf {
        let outer = self.root.join(format!("d{}", self.rng.u8(..8)));
        if self.rng.bool() { outer } else { outer.join(format!("s{}", self.rng.u8(..6))) }
    }

    fn file(&mut self) -> PathBuf {
        self.dir().join(format!("f{}", self.rng.u8(..20)))
    }

    fn save(&mut self) -> std::io::Result<()> {
        let most = if self.rng.u8(..16) == 0 { 200_000 } else { 2_000 };
        let length = self.rng.usize(..most);
        let text = vec![self.rng.alphanumeric() as u8; length];
        std::fs::write(self.file(), text)
    }

    fn append(&mut self) -> std::io::Result<()> {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(self.file())?;
        // What is appended to for ever would be all that is copied.
        if file.metadata()?.len() > 1_000_000 {
            return file.set_len(0);
        }
        file.write_all(b"one more line\n")
    }

    /// An hour ahead, or an hour back: as if written under another clock.
    fn set_time(&mut self) -> std::io::Result<()> {
        let hour = Duration::from_secs(3_600);
        let now = SystemTime::now();
        let time = if self.rng.bool() { now + hour } else { now - hour };
        std::fs::File::options().append(true).open(self.file())?.set_modified(time)
    }
}

/// Sees to it all the time that a directory, wherever it is moved, is closed to others as long as
/// it holds an entry.
pub fn guard(dir: &Path, entry: &str) -> Background<(File, String)> {
    Background::start((File::open(dir).unwrap(), entry.to_owned()), |(dir, entry)| {
        // In this order: what is there after it was open can be seen.
        let strangers = dir.metadata().unwrap().mode() & 0o077;
        let is_there =
            fs::symlink_metadata(format!("/proc/self/fd/{}/{entry}", dir.as_raw_fd())).is_ok();
        assert!(strangers == 0 || !is_there, "open with {entry} in it: {strangers:o}");
    })
}
