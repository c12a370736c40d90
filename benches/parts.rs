//! How long parts of twindir take, each alone: MD5s, a sweep's walk, the queue, a round. Before and
//! after a change, by criterion.
//!
//! ```sh
//! cargo bench --features parts --bench parts                                # all: some three minutes
//! cargo bench --features parts --bench parts -- --save-baseline before      # before a change
//! cargo bench --features parts --bench parts -- --baseline before           # and after it
//! cargo bench --features parts --bench parts -- queue                       # only those with this in their name
//! ```
//!
//! What each measures stands in docs/benchmarks.md. The feature makes `src/parts.rs` public, by
//! which the private modules are reached. Making and removing files is not timed, and each run is
//! seen to have done what it is to do.
//!
//! | environment variable  | meaning                                       | default              |
//! | --------------------- | --------------------------------------------- | -------------------- |
//! | `TWINDIR_BENCH_FILES` | files in the trees that are walked            | 10,000               |
//! | `TWINDIR_BENCH_DIR`   | where scratch folders go                      | `/dev/shm`, if roomy |

mod support;

use std::cell::LazyCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput};
use fastrand::Rng;
use support::{load, rest, setting, version};
use tempfile::TempDir;
use twindir::parts::{Due, QueueEvents, RoundBench, Teller, Trees, digest_together, use_lanes};

const TWINDIR: &str = env!("CARGO_BIN_EXE_twindir");

/// Small files that are hashed together: about 1 MiB, as much as a sweep gathers.
const SMALL: usize = 128;

/// Bytes of a large file, of which there is one pair.
const LARGE: usize = 16 << 20;

/// Bytes of a large file where as many pairs as a sweep reads side by side are hashed.
const SIDE: usize = 2 << 20;
const SIDE_BY_SIDE: usize = 16;

/// Names that a round looks at.
const LOOKS: usize = 256;

fn main() {
    let Some((parent, before)) = support::begin() else { return };
    println!("- twindir {}\n", version(TWINDIR).expect("it says its version"));
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    digest_small(&mut criterion);
    digest_large(&mut criterion, &parent);
    walk(&mut criterion, &parent);
    queue(&mut criterion);
    round(&mut criterion, &parent);
    criterion.final_summary();
    println!("\nLoad average over one minute: {before} before, {} after.", load());
}

/// Times `work` alone, not what prepares it. Ctrl-C ends it in between.
fn time<T>(bencher: &mut Bencher, mut prepare: impl FnMut() -> T, work: impl FnMut(T)) {
    let prepare = || {
        rest(Duration::ZERO);
        prepare()
    };
    bencher.iter_batched(prepare, work, BatchSize::PerIteration);
}

/// How MD5s are computed: what it is called, and whether in lanes.
fn manners() -> Vec<(&'static str, bool)> {
    let lanes = cfg!(feature = "lanes").then_some(("lanes", true));
    lanes.into_iter().chain([("md-5", false)]).collect()
}

/// One thread, and as many as twindir uses by itself.
fn threads() -> [(&'static str, usize); 2] {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    [("1 thread", 1), ("a thread a core", cores)]
}

fn digest_small(criterion: &mut Criterion) {
    let mut rng = Rng::with_seed(7);
    let contents: Vec<_> =
        (0..SMALL).map(|_| random_bytes(rng.usize(200..16_000), &mut rng)).collect();
    let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let mut group = criterion.benchmark_group("digest/small");
    group.throughput(Throughput::Bytes(contents.iter().map(|bytes| bytes.len() as u64).sum()));
    for (name, lanes) in manners() {
        group.bench_function(name, |bencher| {
            use_lanes(lanes);
            time(bencher, || (), |()| assert_eq!(digest_together(&contents), SMALL));
        });
    }
}

fn digest_large(criterion: &mut Criterion, parent: &Path) {
    let names: Vec<String> = (0..SIDE_BY_SIDE).map(|number| format!("side{number:02}")).collect();
    let place = LazyCell::new(|| {
        let place = Place::new(parent);
        let mut rng = Rng::with_seed(7);
        place.write("large", LARGE, &mut rng);
        for name in &names {
            place.write(name, SIDE, &mut rng);
        }
        place.copy();
        (place.trees(), place)
    });
    let mut group = criterion.benchmark_group("digest/large");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(2 * LARGE as u64));
    group.bench_function("one pair", |bencher| {
        time(bencher, || (), |()| assert!(place.0.compare_pair("large")));
    });
    group.throughput(Throughput::Bytes((2 * SIDE_BY_SIDE * SIDE) as u64));
    for (name, lanes) in manners() {
        group.bench_function(BenchmarkId::new("side by side", name), |bencher| {
            use_lanes(lanes);
            time(bencher, || (), |()| assert_eq!(place.0.compare_pairs(&names), SIDE_BY_SIDE));
        });
    }
}

fn walk(criterion: &mut Criterion, parent: &Path) {
    use_lanes(true);
    let files: usize = setting("TWINDIR_BENCH_FILES", 10_000);
    let names = names(files.div_ceil(100), 100);
    let place = LazyCell::new(|| {
        let place = Place::new(parent);
        place.write_small(&names);
        place.copy();
        (place.trees(), place)
    });
    let (files, entries) = (names.len() as u64, (names.len() + names.len() / 100) as u64);
    for (name, full) in [("quick", false), ("full", true)] {
        let mut group = criterion.benchmark_group(format!("walk/{name}"));
        group.sample_size(50).throughput(Throughput::Elements(entries));
        let wanted = (entries, if full { files } else { 0 });
        for (how, threads) in threads() {
            group.bench_function(BenchmarkId::new(how, entries), |bencher| {
                time(bencher, || (), |()| assert_eq!(place.0.walk(full, threads), wanted));
            });
        }
    }
}

fn queue(criterion: &mut Criterion) {
    for (name, teller) in
        [("sweep", Teller::Sweep), ("watch", Teller::Watch), ("both", Teller::Both)]
    {
        let mut group = criterion.benchmark_group(format!("queue/{name}"));
        group.sample_size(50);
        for number in [10_000, 100_000] {
            let told = LazyCell::new(|| QueueEvents::new(number, teller));
            group.throughput(Throughput::Elements(number as u64));
            group.bench_function(number.to_string(), |bencher| {
                time(bencher, || QueueEvents::clone(&told), |told| assert_eq!(told.pass(), number));
            });
        }
    }
}

fn round(criterion: &mut Criterion, parent: &Path) {
    use_lanes(true);
    let names = names(LOOKS / 32, 32);
    let place = LazyCell::new(|| {
        let place = Place::new(parent);
        place.write_small(&names);
        place.copy();
        place
    });
    for (name, is_copy) in [("copy", true), ("equal", false)] {
        let mut group = criterion.benchmark_group(format!("round/{name}"));
        group.throughput(Throughput::Elements(LOOKS as u64));
        let wanted = if is_copy { (LOOKS, 0) } else { (0, LOOKS as u64) };
        for (how, threads) in threads() {
            let mut rounds: Option<RoundBench> = None;
            group.bench_function(how, |bencher| {
                let rounds = rounds.get_or_insert_with(|| place.trees().rounds(threads));
                let prepare = || {
                    if is_copy {
                        place.remove_copies(&names);
                    }
                    Due::looks(&names)
                };
                time(bencher, prepare, |due| assert_eq!(rounds.round(due), wanted));
            });
        }
    }
}

/// The names of files: so many in each directory.
fn names(dirs: usize, each: usize) -> Vec<String> {
    (0..dirs)
        .flat_map(|dir| (0..each).map(move |file| format!("dir{dir:04}/file{file:04}.txt")))
        .collect()
}

fn random_bytes(size: usize, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; size];
    rng.fill(&mut bytes);
    bytes
}

/// A folder with a source and a replica, which goes at the end.
struct Place(TempDir);

impl Place {
    fn new(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("twindir-bench-").tempdir_in(parent);
        let place = Self(dir.expect("a scratch folder can be made"));
        fs::create_dir(place.source()).expect("a directory can be made");
        place
    }

    fn source(&self) -> PathBuf {
        self.0.path().join("source")
    }

    fn replica(&self) -> PathBuf {
        self.0.path().join("replica")
    }

    fn write(&self, name: &str, size: usize, rng: &mut Rng) {
        let path = self.source().join(name);
        fs::create_dir_all(path.parent().expect("it lies in the source"))
            .expect("a directory can be made");
        fs::write(path, random_bytes(size, rng)).expect("a file can be written");
    }

    /// Files of some 500 bytes.
    fn write_small(&self, names: &[String]) {
        let mut rng = Rng::with_seed(7);
        for name in names {
            self.write(name, rng.usize(500..600), &mut rng);
        }
    }

    /// Makes the replica equal, by twindir itself.
    fn copy(&self) {
        let mut command = Command::new(TWINDIR);
        let status = command.args(["--once", "-q"]).args([self.source(), self.replica()]).status();
        assert!(status.is_ok_and(|status| status.success()), "the replica can be made");
    }

    fn remove_copies(&self, names: &[String]) {
        for name in names {
            fs::remove_file(self.replica().join(name)).expect("a copy can be removed");
        }
    }

    fn trees(&self) -> Trees {
        Trees::open(&self.source(), &self.replica())
    }
}
