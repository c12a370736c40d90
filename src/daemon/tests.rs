//! The loop with its threads, its watch and its walks, on a replica in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};

use super::*;
use crate::fs::tree::Root;
use crate::model::config::testing::config;
use crate::model::config::{Mode, parse_interval};
use crate::model::error::FsError;
use crate::model::path::testing::path;
use crate::plan::guard::Trust;
use crate::writer::memory::{MemoryReplica, MemoryWriter};

const DEADLINE: Duration = Duration::from_secs(30);

/// A keeper that checks whether the replica can be reached.
struct Keeper {
    replica: MemoryReplica,
    is_lost: bool,
    checked: Instant,
}

impl RootKeeper<MemoryWriter> for Keeper {
    fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.checked) >= Duration::from_millis(20)
    }

    fn inspect(&mut self, _: Side, _: &mut MemoryWriter, _: Trust, now: Instant) -> Vec<Event> {
        self.checked = now;
        self.is_lost = self.replica.is_away();
        if self.is_lost { vec![Event::RootLost] } else { Vec::new() }
    }

    fn miss(
        &mut self,
        _: Side,
        _: FsError,
        _: &mut MemoryWriter,
        _: Trust,
        _: Instant,
    ) -> Vec<Event> {
        self.is_lost = true;
        vec![Event::RootLost]
    }

    fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn what_is_lost(&self) -> Option<String> {
        self.is_lost.then(|| "it does not answer".to_owned())
    }
}

/// A daemon that runs in a thread of the test.
struct Running {
    top: tempfile::TempDir,
    replica: MemoryReplica,
    signals: Sender<i32>,
    thread: Option<JoinHandle<Result<End, Failed>>>,
}

impl Running {
    /// Starts a daemon with a source that `plant` has filled.
    fn start(config: Config, plant: impl FnOnce(&Path)) -> Self {
        let top = tempfile::tempdir().unwrap();
        plant(top.path());
        let source = Root::new(top.path(), Side::Source);
        let writer = MemoryWriter::new(source);
        Self::run(config, top, writer)
    }

    fn run(config: Config, top: tempfile::TempDir, writer: MemoryWriter) -> Self {
        let replica = writer.replica();
        let keeper = Keeper { replica: replica.clone(), is_lost: false, checked: Instant::now() };
        let (signals, inbox) = bounded(1);
        let source = top.path().to_owned();
        let thread = std::thread::spawn(move || {
            let (_asked, requests) = unbounded();
            let progress =
                Progress::new(StatusBoard::default(), LiveLine::nowhere(), Instant::now());
            let hooks = Hooks::start(config.hooks.clone(), Default::default()).unwrap();
            let face = Interfaces { progress, hooks, service: ServiceManager::start(), requests };
            let mut daemon = Daemon::new(
                &config,
                [source, config.replica.clone()],
                (writer, keeper),
                face,
                Arc::default(),
            );
            daemon.run(&inbox, &AtomicBool::new(false))
        });
        Self { top, replica, signals, thread: Some(thread) }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.path().join(path)
    }

    /// Returns what the replica should hold.
    fn wanted(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![self.top.path().to_owned()];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let at = entry.unwrap().path();
                let is_file = fs::symlink_metadata(&at).unwrap().is_file();
                let bytes = if is_file { fs::read(&at).unwrap() } else { Vec::new() };
                let name = at.strip_prefix(self.top.path()).unwrap().to_str().unwrap().to_owned();
                found.insert(name, bytes);
                waiting.extend(at.is_dir().then_some(at));
            }
        }
        found
    }

    fn wait_equal(&self, when: &str) {
        self.wait(when, |replica| replica.contents() == self.wanted());
    }

    fn wait(&self, when: &str, is_so: impl Fn(&MemoryReplica) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.replica) {
            assert!(begun.elapsed() < DEADLINE, "{when}: {:?}", self.replica.contents().keys());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a run that ends by itself.
    fn end(&mut self) -> End {
        self.thread.take().unwrap().join().unwrap().unwrap()
    }

    fn stop(mut self) {
        self.signals.send(15).unwrap();
        assert_eq!(self.end(), End::Done);
    }
}

fn plant(source: &Path) {
    fs::create_dir_all(source.join("d/e")).unwrap();
    for (name, text) in [("a", "one"), ("b", "two"), ("d/c", "three"), ("d/e/f", "four")] {
        fs::write(source.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("a", source.join("link")).unwrap();
}

fn once() -> Config {
    Config { mode: Mode::Once, watch: false, ..config() }
}

#[test]
fn one_run_makes_a_twin_of_which_nothing_but_entries_is_known() {
    let mut run = Running::start(once(), plant);
    assert_eq!(run.end(), End::Done);
    assert_eq!(run.replica.contents(), run.wanted());
    assert_eq!(run.wanted().len(), 7);
}

#[test]
fn what_is_saved_renamed_and_deleted_is_followed() {
    let run = Running::start(config(), plant);
    run.wait_equal("at first");
    fs::write(run.at("a"), "another").unwrap();
    run.wait_equal("a save");
    fs::rename(run.at("d"), run.at("moved")).unwrap();
    run.wait_equal("a rename");
    fs::remove_dir_all(run.at("moved/e")).unwrap();
    run.wait_equal("a deletion");
    run.stop();
}

#[test]
fn what_the_replica_changes_by_itself_is_found_by_the_md5s_that_it_tells() {
    let interval = parse_interval("1").unwrap();
    let run = Running::start(Config { interval, ..config() }, plant);
    run.wait_equal("at first");
    run.replica.rot(&path("d/e/f"));
    run.wait_equal("a full sweep");
    run.stop();
}

#[test]
fn deletions_of_a_doubted_source_are_held() {
    let held = |number: u32, is_followed: bool| {
        let top = tempfile::tempdir().unwrap();
        for name in 0..number {
            fs::write(top.path().join(format!("f{name}")), "x").unwrap();
        }
        let writer = MemoryWriter::new(Root::new(top.path(), Side::Source));
        let mut run = Running::run(once(), top, writer);
        assert_eq!(run.end(), End::Done);
        let replica = run.replica.clone();
        for name in 0..number {
            fs::remove_file(run.at(&format!("f{name}"))).unwrap();
        }
        let writer = replica.writer(Root::new(run.top.path(), Side::Source));
        let mut again = Running::run(once(), run.top, writer);
        let end = if is_followed { End::Done } else { End::Incomplete };
        assert_eq!(again.end(), end);
        replica.contents().len()
    };
    assert_eq!(held(20, false), 20);
    assert_eq!(held(2, true), 0);
}

#[test]
fn what_a_full_replica_refuses_comes_once_there_is_room() {
    let run = Running::start(config(), plant);
    run.wait_equal("at first");
    run.replica.set_full(true);
    fs::write(run.at("a"), "does not fit").unwrap();
    fs::remove_file(run.at("b")).unwrap();
    run.wait("deletions go on", |replica| !replica.contents().contains_key("b"));
    assert_eq!(run.replica.contents()["a"], b"one");
    run.replica.set_full(false);
    run.wait_equal("there is room");
    run.stop();
}

#[test]
fn a_replica_that_was_away_is_made_equal_when_it_is_back() {
    let run = Running::start(config(), plant);
    run.wait_equal("at first");
    run.replica.set_away(true);
    fs::write(run.at("a"), "while it is away").unwrap();
    fs::remove_dir_all(run.at("d")).unwrap();
    run.wait("its absence was seen", |replica| replica.misses() > 10);
    assert_eq!(run.replica.contents()["a"], b"one", "nothing is written to what is not there");
    run.replica.set_away(false);
    run.wait_equal("it is back");
    run.stop();
}
