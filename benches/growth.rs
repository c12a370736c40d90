//! How time and memory grow with the tree: a full sweep, a quick sweep, the start with the watch,
//! and rest.
//!
//! ```sh
//! cargo bench --bench growth
//! ```
//!
//! It installs nothing. For each size it makes a tree of files of 100 to 300 bytes, a hundred in a
//! directory and a hundred such directories in one above, and a twin of it by `cp -a`; with a
//! million files these take 11 GB of memory and two million inodes. A size for which there is no
//! room is named and left out. Prints Markdown, and draws two plots.
//!
//! **Full sweep, quick sweep**: `--once -q`, without and with `--quick`, nothing to do; from its
//! start to its end. The memory is the most that was resident, as the kernel keeps it (`VmHWM`), by
//! the last look before the end; looks come every 2 ms.
//!
//! **Start**: with the watch and an interval of an hour; from the start to the first `in sync as of`,
//! for which all directories are watched, all is scanned quickly, then swept in full. Looks at what
//! it prints come every millisecond. Then, after a second of quiet, the memory that is resident
//! (`VmRSS`), the most that was, and the CPU that it takes in five seconds of rest.
//!
//! **By interval**: without the watch, swept every second; the memory right after the second sweep.
//!
//! Everything lies in the page cache before. Figures are medians; the four run in turn, after a
//! quick sweep that is not counted, since the cores may have slept. From one size to the next: what
//! a file more costs, and the exponent, which is 1 where time grows like the number of files. A
//! directory comes with about every hundredth file, so nobody can tell what is a file's and what a
//! directory's: memory is shown as if it were all the one's, and all the other's.
//!
//! The plots replace those in `docs` where all three default sizes were measured; else they go to
//! cargo's folder for temporary files.
//!
//! | environment variable  | meaning                                   | default                    |
//! | --------------------- | ----------------------------------------- | -------------------------- |
//! | `TWINDIR_BENCH_FILES` | the sizes, in files, smallest first       | 10000,100000,1000000       |
//! | `TWINDIR_BENCH_RUNS`  | how often each is measured                | 3                          |
//! | `TWINDIR_BENCH_DIR`   | where the trees go                        | `/dev/shm`, if roomy       |

#[path = "growth/plots.rs"]
mod plots;
#[path = "support/running.rs"]
mod running;
#[path = "support/median.rs"]
mod median;
mod support;
#[path = "growth/tables.rs"]
mod tables;
#[path = "support/trees.rs"]
mod trees;
#[path = "growth/turn.rs"]
mod turn;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use support::{load, setting, version};
use tempfile::TempDir;
use turn::{Turn, once};

const DEFAULT: [usize; 3] = [10_000, 100_000, 1_000_000];

/// So many files in a directory, and so many such directories in one above.
const HUNDRED: usize = 100;

/// What was measured with one size.
struct Size {
    files: usize,
    dirs: usize,
    turns: Vec<Turn>,
}

/// Source and replica, in a folder that goes at the end.
struct Place {
    folder: TempDir,
    dirs: usize,
}

fn main() {
    let Some((parent, before)) = support::begin() else { return };
    println!("- twindir {}", version(turn::TWINDIR).expect("it says its version"));
    let measured: Vec<Size> =
        sizes().into_iter().filter_map(|files| measure(&parent, files)).collect();
    tables::print(&measured);
    let is_full = DEFAULT.iter().all(|files| measured.iter().any(|size| size.files == *files));
    let folder = if is_full {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
    } else {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
    };
    if measured.len() > 1 {
        plots::draw(&measured, &folder).expect("the plots can be drawn");
        println!("\nPlots: growth-time.svg and growth-memory.svg in {}.", folder.display());
    }
    println!("\nLoad average over one minute: {before} before, {} after.", load());
}

fn sizes() -> Vec<usize> {
    let text = setting("TWINDIR_BENCH_FILES", DEFAULT.map(|files| files.to_string()).join(","));
    let parse = |size: &str| size.trim().parse().ok().filter(|files| *files > 0);
    let sizes: Option<Vec<usize>> = text.split(',').map(parse).collect();
    let sizes = sizes.filter(|sizes| sizes.is_sorted_by(|one, next| one < next));
    sizes.unwrap_or_else(|| panic!("TWINDIR_BENCH_FILES holds no numbers that grow: {text:?}"))
}

/// All turns with one size; `None` where there is no room for it.
fn measure(parent: &Path, files: usize) -> Option<Size> {
    if !has_room(parent, files) {
        println!(
            "- {files} files: left out, since there is no room for them in {}",
            parent.display()
        );
        return None;
    }
    eprintln!("{files} files");
    let place = Place::new(parent, files);
    // Fills the page cache.
    once(&place, &[]);
    // The first quick run finds all equal, and marks it so.
    support::rest(support::YOUNG);
    let turns = (0..setting("TWINDIR_BENCH_RUNS", 3).max(1)).map(|_| Turn::take(&place));
    Some(Size { files, dirs: place.dirs, turns: turns.collect() })
}

/// Whether both trees fit: of tmpfs a file takes a page and an inode.
fn has_room(parent: &Path, files: usize) -> bool {
    let Ok(stat) = rustix::fs::statvfs(parent) else { return true };
    let entries = 2 * (files + files / HUNDRED * 2 + 3) as u64;
    // Some file systems count no inodes.
    let has_inodes = stat.f_files == 0 || stat.f_favail > entries;
    has_inodes && stat.f_bavail.saturating_mul(stat.f_frsize) > 4096 * entries
}

impl Place {
    fn new(parent: &Path, files: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("twindir-bench-").tempdir_in(parent);
        let mut place = Self { folder: folder.expect("a scratch folder can be made"), dirs: 0 };
        let [source, replica] = place.roots();
        place.dirs = plant(&source, files);
        trees::twin(&source, &replica);
        let folder = File::open(place.folder.path()).expect("a folder can be opened");
        rustix::fs::syncfs(folder).expect("what is written can reach the disk");
        place
    }

    fn roots(&self) -> [PathBuf; 2] {
        ["source", "replica"].map(|name| self.folder.path().join(name))
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

/// Makes the tree, the same each time. Says how many directories it has, the root among them.
fn plant(root: &Path, files: usize) -> usize {
    let mut rng = Rng::with_seed(7);
    let mut dir = root.to_owned();
    for file in 0..files {
        if file % HUNDRED == 0 {
            let number = file / HUNDRED;
            dir = root.join(format!("d{:03}/d{:02}", number / HUNDRED, number % HUNDRED));
            fs::create_dir_all(&dir).expect("a folder can be made");
        }
        let size = rng.usize(100..=300);
        trees::fill(&dir.join(format!("f{:02}", file % HUNDRED)), size, &mut rng);
    }
    let lower = files.div_ceil(HUNDRED);
    1 + lower.div_ceil(HUNDRED) + lower
}
