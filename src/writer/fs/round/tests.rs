//! Rounds alone: no daemon, no sweep, no clock, one thread.

mod listed;
mod moves;
mod removals;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::fs::tree::{InjectedErrors, Root};
use crate::model::check::{CachedDigests, Checks, Depth, Detector, add};
use crate::model::entry::DigestPair;
use crate::model::error::Side;
use crate::model::limit::Limit;
use crate::model::path::testing::path;
use crate::model::task::Task;
use crate::plan::guard::{Count, Doubt, Occasion, judge};
use crate::plan::queue::RenameBatch;
use crate::report::Operation;
use crate::sweep::{Extent, Message, Plan, walked};
use crate::writer::fs::big_files::{JobKind, JobResult};

/// Two small trees and a reconciler between them.
pub struct Fixture {
    top: tempfile::TempDir,
    pub reconciler: Reconciler,
}

impl Fixture {
    fn new() -> Self {
        Self::below(tempfile::tempdir().unwrap())
    }

    pub fn below(top: tempfile::TempDir) -> Self {
        for root in ["source", "replica", "outside"] {
            fs::create_dir(top.path().join(root)).unwrap();
        }
        let root = |name: &str, side| Root::new(top.path().join(name), side);
        let (source, replica) = (root("source", Side::Source), root("replica", Side::Replica));
        let (source_id, replica_id) = (source.id().unwrap(), replica.id().unwrap());
        let roots = Roots { source, replica, source_id, replica_id: Some(replica_id) };
        let owner = rustix::process::geteuid().is_root();
        let user = rustix::process::geteuid().as_raw();
        let capabilities = Capabilities { owner, user, ..Capabilities::all() };
        let options = WriterOptions { threads: 1, ..WriterOptions::default() };
        let reconciler =
            Reconciler::start(roots, capabilities, Filter::default(), options, Arc::default())
                .unwrap();
        Self { top, reconciler }
    }

    /// Turns the backup and durability on or off.
    pub fn keep(&mut self, is_backed_up: bool, is_durable: bool) {
        self.reconciler.durable = is_durable;
        self.reconciler.backup = is_backed_up.then(|| self.backup());
    }

    /// Makes a backup beside the roots.
    fn backup(&self) -> Arc<Backup> {
        fs::create_dir(self.at("backup")).unwrap();
        Arc::new(
            Backup::open(
                self.at("backup"),
                [&self.reconciler.roots.source, &self.reconciler.roots.replica].map(Root::clone),
                false,
            )
            .unwrap(),
        )
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.top.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    fn round(&mut self, work: Work) -> Outcome {
        self.reconciler.round(work, &()).unwrap()
    }

    /// Does a round that checks these paths.
    fn observe(&mut self, paths: &[&str]) -> Outcome {
        self.round(work(paths))
    }

    /// Returns the names in a directory, in order.
    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(dir)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Waits until the trash is emptied, and lets rounds remove it.
    fn remove_emptied(&mut self) {
        while !self.reconciler.pending_trash.is_empty() {
            let ended = self.ended();
            self.reconciler.give_back(ended);
            let outcome = self.round(work(&[]));
            assert_eq!(outcome.problems.first().map(|(problem, _)| problem), None);
        }
    }

    /// Waits for a result from the background.
    fn ended(&self) -> Ended {
        self.reconciler.ended().recv_timeout(Duration::from_secs(30)).unwrap()
    }

    /// Waits for the result of a worker.
    fn finished(&self) -> Finished {
        match self.ended() {
            Ended::BigFile(finished) => *finished,
            Ended::Trash(emptied) => panic!("{:?} was emptied", emptied.trash),
        }
    }

    /// Does a round that handles results of workers.
    fn round_with<const N: usize>(&mut self, finished: [Finished; N], work: Work) -> Outcome {
        for finished in finished {
            self.reconciler.give_back(Ended::BigFile(Box::new(finished)));
        }
        self.round(work)
    }
}

fn check() -> Check {
    Check::new(Depth::Content, Detector::Sweep, std::time::Instant::now())
}

fn work(paths: &[&str]) -> Work {
    let mut checks = Checks::new();
    for text in paths {
        add(&mut checks, &path(text), check());
    }
    Work {
        moves: RenameBatch::default(),
        checks,
        detector: Detector::Sweep,
        deletions: Deletions::Followed,
        budget: None,
        big: u64::MAX,
        swept: None,
        now: std::time::Instant::now(),
    }
}

fn operations(outcome: &Outcome) -> Vec<(Operation, String)> {
    outcome.done.iter().map(|done| (done.operation, done.path.to_string())).collect()
}

#[test]
fn a_round_touches_what_it_was_asked_to_look_at_and_nothing_else() {
    let mut pair = Fixture::new();
    pair.write("source/a", "new");
    pair.write("source/b", "new");
    pair.write("replica/stale", "old");
    let outcome = pair.observe(&["a", "stale"]);
    assert_eq!(
        operations(&outcome),
        [(Operation::Created, "a".into()), (Operation::Removed, "stale".into())]
    );
    assert_eq!(pair.names("replica"), ["a"]);
}

#[test]
fn equal_entries_give_no_action() {
    let mut pair = Fixture::new();
    pair.write("source/a", "text");
    pair.observe(&["a"]);
    let inode = fs::metadata(pair.at("replica/a")).unwrap().ino();
    let outcome = pair.observe(&["a"]);
    assert!(outcome.done.is_empty() && outcome.problems.is_empty() && outcome.again.is_empty());
    assert_eq!(fs::metadata(pair.at("replica/a")).unwrap().ino(), inode);
}

#[test]
fn a_look_below_a_missing_directory_makes_it_and_asks_for_the_rest_of_it() {
    let mut pair = Fixture::new();
    pair.write("source/d/e/f", "x");
    let outcome = pair.observe(&["d/e/f"]);
    assert_eq!(pair.read("replica/d/e/f"), "x");
    assert_eq!(outcome.to_walk, [path("d"), path("d/e")]);
}

#[test]
fn a_directory_reported_with_its_children_is_not_scanned_again() {
    let mut pair = Fixture::new();
    pair.write("source/d/f", "x");
    let outcome = pair.observe(&["d", "d/f"]);
    assert_eq!(pair.read("replica/d/f"), "x");
    assert_eq!(outcome.to_walk, []);
}

#[test]
fn a_look_in_a_directory_that_is_gone_moves_to_its_highest_missing_ancestor() {
    let mut pair = Fixture::new();
    pair.write("replica/d/e/f", "x");
    pair.write("replica/d/e/g", "x");
    let outcome = pair.observe(&["d/e/f"]);
    assert_eq!(operations(&outcome), [(Operation::Removed, "d".into())]);
    let entries = outcome.done[0].entries.unwrap();
    // They are counted for a short time only.
    assert!(entries.number == 4 || (entries.at_least && entries.number < 4), "{entries:?}");
    pair.remove_emptied();
    assert_eq!(pair.names("replica"), [""; 0]);
}

#[test]
fn held_deletions_are_counted_and_not_made_while_copying_goes_on() {
    let mut pair = Fixture::new();
    pair.write("source/new", "x");
    pair.write("source/was-dir", "x");
    pair.write("replica/file", "x");
    pair.write("replica/dir/file", "x");
    pair.write("replica/was-dir/file", "x");
    let all = ["new", "file", "dir", "was-dir"];
    let outcome = pair.round(Work {
        detector: Detector::Sweep,
        deletions: Deletions::Held { create_budget: None },
        ..work(&all)
    });
    assert_eq!(outcome.held, 3);
    assert_eq!(operations(&outcome), [(Operation::Created, "new".into())]);
    assert_eq!(pair.names("replica"), ["dir", "file", "new", "was-dir"]);
    assert_eq!(pair.names("replica/was-dir"), ["file"]);
}

#[test]
fn an_absence_in_a_directory_that_was_moved_away_deletes_nothing() {
    // I5: the names are absent in the open directory, but it no longer stands at its path.
    let pair = Fixture::new();
    fs::create_dir(pair.at("source/d")).unwrap();
    pair.write("replica/d/file", "x");
    pair.write("replica/d/sub/file", "x");
    let roots = pair.reconciler.roots.open().unwrap();
    let terms = Terms {
        detector: Detector::Sweep,
        deletions: Deletions::Followed,
        big: u64::MAX,
        swept: None,
        now: Instant::now(),
        begun: Time::default(),
    };
    let mut round = pair.reconciler.begin(roots, terms, &());
    round.open_dirs(work(&["d/file", "d/sub"]).checks);
    round.observe();
    fs::rename(pair.at("source/d"), pair.at("outside/d")).unwrap();
    round.directories();
    round.contents(None);
    assert_eq!(operations(&round.out), []);
    assert_eq!(round.out.again.len(), 2);
    assert_eq!(pair.names("replica/d"), ["file", "sub"]);
}

#[test]
fn a_root_that_is_another_directory_ends_the_round_before_it_begins() {
    let mut pair = Fixture::new();
    pair.write("replica/file", "x");
    fs::rename(pair.at("source"), pair.at("old")).unwrap();
    fs::create_dir(pair.at("source")).unwrap();
    assert!(matches!(pair.reconciler.round(work(&["file"]), &()), Err(Lost::SourceReplaced)));
    fs::remove_dir(pair.at("source")).unwrap();
    assert!(matches!(pair.reconciler.round(work(&["file"]), &()), Err(Lost::Source(_))));
    assert_eq!(pair.read("replica/file"), "x");
}

#[test]
fn a_directory_has_its_mode_and_time_after_its_entries_changed() {
    let mut pair = Fixture::new();
    pair.write("source/d/f", "x");
    fs::set_permissions(pair.at("source/d"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::set_permissions(pair.at("source/d"), fs::Permissions::from_mode(0o750)).unwrap();
    pair.observe(&["d", "d/f"]);
    let (ours, theirs) =
        (fs::metadata(pair.at("source/d")).unwrap(), fs::metadata(pair.at("replica/d")).unwrap());
    assert_eq!(ours.mode(), theirs.mode());
    assert_eq!((ours.mtime(), ours.mtime_nsec()), (theirs.mtime(), theirs.mtime_nsec()));
}

#[test]
fn a_directory_gives_way_to_a_file_in_one_step_and_is_deleted_afterwards() {
    // I4, I6: the exchange is the change; the old tree is deleted later, under a reserved name.
    let mut pair = Fixture::new();
    pair.write("source/x", "file now");
    pair.write("replica/x/deep/file", "x");
    let outcome = pair.observe(&["x"]);
    assert_eq!(operations(&outcome), [(Operation::Updated, "x".into())]);
    assert_eq!(pair.read("replica/x"), "file now");
    pair.remove_emptied();
    assert_eq!(pair.names("replica"), ["x"]);
}

#[test]
fn a_tree_that_was_put_aside_in_a_directory_goes_with_it_when_that_becomes_a_file() {
    let mut pair = Fixture::new();
    pair.write("source/a/y", "text");
    pair.write("replica/a/sub/x", "text");
    pair.observe(&["a/sub"]);
    fs::remove_dir_all(pair.at("source/a")).unwrap();
    pair.write("source/a", "a file");
    pair.observe(&["a"]);
    pair.remove_emptied();
    assert_eq!(
        (pair.names("replica"), pair.read("replica/a")),
        (vec!["a".into()], "a file".into())
    );
}

#[test]
fn a_symlink_in_the_replica_gives_way_to_a_directory_and_its_target_is_left_alone() {
    // I3: nothing is written through the symlink.
    let mut pair = Fixture::new();
    pair.write("source/sub/f", "x");
    symlink("../outside", pair.at("replica/sub")).unwrap();
    pair.observe(&["sub/f"]);
    assert_eq!(pair.read("replica/sub/f"), "x");
    assert!(fs::symlink_metadata(pair.at("replica/sub")).unwrap().is_dir());
    assert_eq!(pair.names("outside"), [""; 0]);
}

#[test]
fn evidence_holds_only_for_the_states_that_were_read() {
    let mut pair = Fixture::new();
    pair.write("source/f", "new");
    pair.write("replica/f", "old");
    let roots = pair.reconciler.roots.open().unwrap();
    let (source, replica) = (roots.0.observe(b"f"), roots.1.observe(b"f"));
    let lie = roots.0.open_file(b"f").unwrap();
    let md5 = crate::fs::digest::md5_of(&lie.0, lie.1.size, &AtomicBool::new(false)).unwrap();
    let cached = CachedDigests {
        source: source.entry().unwrap().identity(),
        replica: replica.entry().unwrap().identity(),
        digests: DigestPair { source: md5, replica: md5 },
    };
    // The replica's file was written to after it was read: the verdict "same" is worth nothing.
    let written = fs::File::options().write(true).open(pair.at("replica/f")).unwrap();
    written.set_modified(std::time::UNIX_EPOCH).unwrap();
    let mut checks = Checks::new();
    add(&mut checks, &path("f"), Check { cached: Some(Box::new(cached)), ..check() });
    pair.round(Work { checks, ..work(&[]) });
    assert_eq!(pair.read("replica/f"), "new");
}

/// Plans a walk over both trees, on one thread.
fn plan(pair: &Fixture, task: Task) -> Plan<Roots> {
    let Reconciler { roots, capabilities, filter, .. } = &pair.reconciler;
    let (roots, capabilities, filter) = (roots.clone(), capabilities.clone(), filter.clone());
    Plan {
        trees: roots,
        capabilities,
        filter,
        threads: 1,
        scopes: vec![RelPath::root()],
        task,
        rate: None,
        drop_behind: false,
        detector: Detector::Sweep,
        registry: None,
        extent: Extent::Below,
        verified_dirs: None,
        submounts: Vec::new(),
    }
}

#[test]
fn a_look_at_the_names_of_a_directory_finds_what_is_in_it_and_which_directories_may_be_others() {
    let mut pair = Fixture::new();
    for name in ["changed", "same", "gone", "still/below", "remade/x", "moved/x", "emptied/x"] {
        pair.write(&format!("source/{name}"), "text");
    }
    let names = ["changed", "same", "gone", "still", "still/below", "remade", "moved", "emptied"];
    pair.round(work(&[&names[..], &["remade/x", "moved/x", "emptied/x"]].concat()));
    assert_eq!(names_found(&pair), [""; 0]);
    pair.write("source/changed", "other text");
    pair.write("source/still/below", "other text");
    pair.write("source/new", "text");
    fs::remove_file(pair.at("source/gone")).unwrap();
    fs::remove_dir_all(pair.at("source/remade")).unwrap();
    pair.write("source/remade/y", "text");
    fs::create_dir(pair.at("source/made")).unwrap();
    // Another directory of that name, as old as the first one.
    let mtime = fs::metadata(pair.at("source/moved")).unwrap().modified().unwrap();
    fs::rename(pair.at("source/moved"), pair.at("moved away")).unwrap();
    pair.write("another/y", "text");
    fs::File::open(pair.at("another")).unwrap().set_modified(mtime).unwrap();
    fs::rename(pair.at("another"), pair.at("source/moved")).unwrap();
    assert_eq!(names_found(&pair), ["changed", "gone", "made", "moved", "new", "remade"]);
}

/// Returns the names in the root that a quick sweep of its names alone finds to differ.
fn names_found(pair: &Fixture) -> Vec<String> {
    let mut found = Vec::new();
    for message in walked(Plan { extent: Extent::Names, ..plan(pair, Task::Quick) }) {
        if let Message::Differ(dir, names) = message {
            assert!(names.iter().all(|(_, check)| check.depth == Depth::Subtree));
            // A file that was copied within a tick of the clock is read, and reported as equal.
            let is_equal =
                |check: &Check| check.cached.as_ref().is_some_and(|cached| cached.digests.same());
            let names = names.into_iter().filter(|(_, check)| !is_equal(check));
            found.extend(names.map(|(name, _)| dir.join(&name).to_string()));
        }
    }
    found.sort();
    found
}

/// Counts, with system calls that fail unless the seed is 0; `None` if a root was lost.
fn counted(pair: &Fixture, seed: u64) -> Option<Count> {
    let plan = plan(pair, Task::Count);
    let _faults = (seed > 0).then(|| InjectedErrors::begin(seed, 30));
    walked(plan).find_map(|message| match message {
        Message::Counted(count) => Some(count),
        _ => None,
    })
}

#[test]
fn a_source_is_not_trusted_for_what_could_not_be_counted() {
    let pair = Fixture::new();
    for number in 0..150 {
        pair.write(&format!("replica/d/{number}"), "x");
    }
    pair.write("source/d/0", "x");
    let judged = |count| judge(&count, Limit::default(), Occasion::Start);
    assert!(matches!(counted(&pair, 0).map(judged), Some(Some(Doubt::Strange(_)))));
    let seen: Vec<_> = (1..200).filter_map(|seed| counted(&pair, seed)).map(judged).collect();
    // If a directory seems to be locked, its entries stay. If it seems to be deleted, that is
    // believed.
    let trusted = seen.iter().filter(|doubt| doubt.is_none()).count();
    assert!(
        seen.contains(&Some(Doubt::Unknown)) && trusted * 5 < seen.len(),
        "{trusted} of {}",
        seen.len()
    );
}

#[test]
fn a_big_file_is_published_by_a_later_round() {
    let mut pair = Fixture::new();
    pair.write("source/big", "0123456789");
    let outcome = pair.round(Work { big: 5, ..work(&["big"]) });
    assert_eq!(operations(&outcome), []);
    let finished = pair.finished();
    assert!(!pair.at("replica/big").exists());
    let outcome = pair.round_with([finished], work(&[]));
    assert_eq!(operations(&outcome), [(Operation::Created, "big".into())]);
    assert_eq!(pair.names("replica"), ["big"]);
    assert!(pair.reconciler.background().is_idle);
}

#[test]
fn a_big_file_whose_source_has_changed_is_not_published() {
    let mut pair = Fixture::new();
    pair.write("source/d/big", "0123456789");
    pair.round(Work { big: 5, ..work(&["d", "d/big"]) });
    let finished = pair.finished();
    pair.write("source/d/big", "9876543210");
    let outcome = pair.round_with([finished], work(&[]));
    assert_eq!(operations(&outcome), []);
    assert!(
        matches!(&outcome.again[..], [(again, _, Requeue::Changing)] if *again == path("d/big"))
    );
    assert_eq!(pair.names("replica/d"), [""; 0]);
}

#[test]
fn an_older_copy_of_a_file_that_grows_does_not_take_the_place_of_a_newer_one() {
    let mut pair = Fixture::new();
    pair.write("source/log", "0123456789");
    pair.round(Work { big: 5, ..work(&["log"]) });
    let finished = pair.finished();
    pair.write("source/log", "0123456789abc");
    pair.observe(&["log"]);
    pair.round_with([finished], work(&[]));
    assert_eq!(pair.read("replica/log"), "0123456789abc");
    assert_eq!(pair.names("replica"), ["log"]);
}

#[test]
fn a_big_file_that_is_moved_away_leaves_nothing_behind() {
    let mut pair = Fixture::new();
    pair.write("source/d/big", "0123456789");
    pair.round(Work { big: 5, ..work(&["d", "d/big"]) });
    let finished = pair.finished();
    fs::rename(pair.at("source/d"), pair.at("outside/d")).unwrap();
    let held = Work {
        detector: Detector::Sweep,
        deletions: Deletions::Held { create_budget: None },
        ..work(&[])
    };
    pair.round_with([finished], held);
    assert_eq!(pair.names("replica/d"), [""; 0]);
}

#[test]
fn two_big_files_of_one_size_are_compared_by_a_worker() {
    let mut pair = Fixture::new();
    pair.write("source/big", "0123456789");
    pair.write("replica/big", "0123456780");
    pair.round(Work { big: 5, ..work(&["big"]) });
    let digests = pair.finished();
    assert!(matches!(&digests.result, Ok(JobResult::Digests(digests)) if !digests.same()));
    pair.round_with([digests], Work { big: 5, ..work(&[]) });
    let filled = pair.finished();
    let outcome = pair.round_with([filled], Work { big: 5, ..work(&[]) });
    assert_eq!(outcome.done[0].reason, crate::model::reason::Reason::Md5);
    assert_eq!(pair.read("replica/big"), "0123456789");
}

#[test]
fn what_is_wished_for_of_a_file_on_its_way_is_not_forgotten() {
    let mut pair = Fixture::new();
    let write = |pair: &Fixture, text| {
        pair.write("source/big", text);
        let file = fs::File::options().write(true).open(pair.at("source/big")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    write(&pair, "0123456789");
    let mut checks = Checks::new();
    add(&mut checks, &path("big"), Check { depth: Depth::Metadata, ..check() });
    pair.round(Work { checks, big: 5, ..work(&[]) });
    // Size and mtime do not show this change.
    write(&pair, "9876543210");
    pair.round(Work { big: 5, ..work(&["big"]) });
    let filled = pair.finished();
    let outcome = pair.round_with([filled], Work { big: 5, ..work(&[]) });
    let again: Vec<_> =
        outcome.again.iter().map(|(_, check, again)| (check.depth, *again)).collect();
    assert_eq!(again, [(Depth::Content, Requeue::Changing)]);
}

#[test]
fn without_time_one_task_is_done_and_the_rest_comes_back() {
    let mut pair = Fixture::new();
    let names: Vec<String> = (0..3 * TASK).map(|number| format!("{number:03}")).collect();
    for name in &names {
        pair.write(&format!("source/{name}"), "x");
    }
    let paths: Vec<&str> = names.iter().map(String::as_str).collect();
    let outcome = pair.round(Work { budget: Some(Duration::ZERO), ..work(&paths) });
    assert_eq!((outcome.done.len(), outcome.again.len()), (TASK, 2 * TASK));
    assert!(outcome.again.iter().all(|(_, _, again)| *again == Requeue::Now));
}

#[test]
fn temporary_names_are_removed_unless_they_are_in_use() {
    // I7.
    let mut pair = Fixture::new();
    let stale = Name::reserved(1).to_string();
    let stale_dir = Name::reserved(2).to_string();
    pair.write(&format!("replica/{stale}"), "x");
    pair.write(&format!("replica/{stale_dir}/f"), "x");
    pair.write("source/big", "0123456789");
    pair.round(Work { big: 5, ..work(&["big"]) });
    let finished = pair.finished();
    let JobKind::Fill { name: in_use, .. } = &finished.job.kind else { panic!("not being filled") };
    let in_use = in_use.to_string();
    // Held deletions do not include these: they are twindir's own.
    let held = Work {
        detector: Detector::Sweep,
        deletions: Deletions::Held { create_budget: None },
        ..work(&[&stale, &stale_dir, &in_use])
    };
    pair.round(held);
    pair.remove_emptied();
    assert_eq!(pair.names("replica"), [in_use]);
    pair.round_with([finished], work(&[]));
    assert_eq!(pair.names("replica"), ["big"]);
}

#[test]
fn what_cannot_be_looked_at_is_a_problem_and_deletes_nothing() {
    if rustix::process::geteuid().is_root() {
        return println!("skipped: modes keep root out of nothing");
    }
    let mut pair = Fixture::new();
    pair.write("source/locked/f", "x");
    pair.write("replica/locked/f", "x");
    fs::set_permissions(pair.at("source/locked"), fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = pair.observe(&["locked/f"]);
    fs::set_permissions(pair.at("source/locked"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(outcome.problems.len(), 1);
    assert_eq!(pair.read("replica/locked/f"), "x");
}
