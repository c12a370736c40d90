//! Jobs that run on the test's own thread while system calls fail.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use fastrand::Rng;

use super::*;
use crate::fs::tree::{InjectedErrors, ReplicaDir, Root};
use crate::model::check::{Depth, Detector};
use crate::model::error::Side;
use crate::model::path::testing::{name, path};

/// The size limit of test files, in bytes: more than one chunk, and more than [`fill`] copies by
/// one read and one write.
const LONGEST_INTERVAL: usize = 700 * 1024;

/// A source and a replica for one file each, and workers that give permits.
struct Bench {
    top: tempfile::TempDir,
    workers: BigFileWorkers,
    rng: Rng,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let top = tempfile::tempdir().unwrap();
        for side in ["source", "replica"] {
            fs::create_dir(top.path().join(side)).unwrap();
        }
        Self {
            top,
            workers: BigFileWorkers::start(1, |_| true).unwrap(),
            rng: Rng::with_seed(seed),
        }
    }

    /// Writes a file with some holes in it.
    fn write(&mut self, at: &Path) {
        let len = self.rng.usize(1..LONGEST_INTERVAL);
        let file = fs::File::create(at).unwrap();
        file.set_len(len as u64).unwrap();
        for _ in 0..self.rng.usize(..6) {
            let begin = self.rng.usize(..len);
            let bytes: Vec<u8> =
                std::iter::repeat_with(|| self.rng.u8(..)).take(100_000.min(len - begin)).collect();
            file.write_all_at(&bytes, begin as u64).unwrap();
        }
    }

    fn source(&self) -> (File, Entry) {
        let root = Root::new(self.top.path().join("source"), Side::Source);
        root.open_source().unwrap().0.open_file(b"file").unwrap()
    }

    fn replica(&self) -> ReplicaDir {
        Root::new(self.top.path().join("replica"), Side::Replica).open_replica().unwrap().0
    }

    fn job(&self, kind: JobKind) -> Job {
        let check = Check::new(Depth::Content, Detector::Watch, Instant::now());
        Job::new(path("file"), check, self.source(), kind, self.workers.take_permit().unwrap())
    }
}

/// Tries many seeds: some have to succeed, and some to fail.
fn some_succeed(succeeds: impl Fn(u64) -> bool) {
    let (done, failed): (Vec<_>, Vec<_>) =
        InjectedErrors::seeds(100).partition(|seed| succeeds(*seed));
    println!("{} have succeeded, {} have failed", done.len(), failed.len());
    assert!(!done.is_empty() && !failed.is_empty());
}

#[test]
fn a_copy_that_is_said_to_be_done_is_whole_whatever_has_failed() {
    some_succeed(|seed| {
        let mut bench = Bench::new(seed);
        let (source, copy) =
            (bench.top.path().join("source/file"), bench.top.path().join("replica/temp"));
        bench.write(&source);
        let temp = bench.replica().create_file(&name("temp")).unwrap();
        let job = bench.job(JobKind::Fill {
            temp,
            name: name("temp"),
            reason: Reason::New,
            flush: seed % 2 == 0,
        });
        let faults = InjectedErrors::begin(seed, 20);
        let result = job.run();
        drop(faults);
        let is_whole = fs::read(&source).unwrap() == fs::read(&copy).unwrap();
        assert!(result.is_err() || is_whole, "seed {seed}");
        result.is_ok()
    });
}

#[test]
fn two_files_are_not_said_to_be_equal_for_what_has_failed() {
    some_succeed(|seed| {
        let mut bench = Bench::new(seed);
        let [source, other] =
            ["source", "replica"].map(|side| bench.top.path().join(side).join("file"));
        bench.write(&source);
        fs::copy(&source, &other).unwrap();
        let differs = bench.rng.bool();
        if differs {
            let last = fs::metadata(&other).unwrap().len() - 1;
            let file = fs::File::options().read(true).write(true).open(&other).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, last).unwrap();
            file.write_all_at(&[!byte[0]], last).unwrap();
        }
        let (replica, replica_entry) = bench.replica().open_existing(&name("file")).unwrap();
        let job = bench.job(JobKind::Compare { replica, replica_entry });
        let faults = InjectedErrors::begin(seed, 10);
        let result = job.run();
        drop(faults);
        if let Ok(JobResult::Digests(digests)) = result {
            assert_eq!(digests.same(), !differs, "seed {seed}");
        }
        result.is_ok()
    });
}
