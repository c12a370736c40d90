//! What `--durable` costs: a first copy of small files to a disk, with it and without.
//!
//! ```sh
//! cargo bench --bench durable
//! ```
//!
//! By root, since each file system is made in an image and mounted, in a private mount namespace.
//! Where its mkfs is missing, it is left out. Files of 0.2 to 16 kB, a hundred in a directory, are
//! copied by `--once` from the disk to the image, which lies on the same disk; before each run the
//! last replica is removed, and all is written out. What is compared takes turns. `cp -a` and a
//! `sync` of that file system beside them: all is on the disk at its end, as by `--durable`. Prints
//! Markdown: medians of seconds, and the ratio of the two.
//!
//! | environment variable  | meaning                      | default |
//! | --------------------- | ---------------------------- | ------- |
//! | `TWINDIR_BENCH_REPS`  | how often each is run        | 7       |
//! | `TWINDIR_BENCH_FILES` | how many files there are     | 10,000  |

#[path = "support/median.rs"]
mod median;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::time::Instant;

use median::median;
use support::{Mounts, Scratch};

const FILES_IN_EACH: u64 = 100;

/// What is compared, as shell commands.
const PLAIN: &str = r#""$TWINDIR" --once --quiet source disk/replica"#;
const DURABLE: &str = r#""$TWINDIR" --once --quiet --durable source disk/replica"#;
const CP: &str = "cp -a source disk/replica; sync -f disk";

fn main() {
    // `cargo test --benches` comes by without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: to be run by cargo bench");
        return;
    }
    let (reps, files) = (
        support::how_many("TWINDIR_BENCH_REPS", 7),
        support::how_many("TWINDIR_BENCH_FILES", 10_000),
    );
    println!("## First copy of {files} small files, median of {reps}, in seconds\n");
    println!("| replica on | plain | `--durable` | ratio | `cp -a`, then `sync` |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for kind in ["ext4", "xfs", "btrfs"] {
        if let Some([plain, durable, cp]) = measure(kind, files, reps) {
            println!("| {kind} | {plain:.2} | {durable:.2} | {:.2} | {cp:.2} |", durable / plain);
        }
    }
}

/// Seconds that each of the three took; `None` where that file system cannot be made here.
fn measure(kind: &str, files: u64, reps: u64) -> Option<[f64; 3]> {
    let scratch = Scratch::new();
    make(&scratch.source(), files);
    let mounts = Mounts::of(&scratch)?;
    // All of the image is there: what is measured is no growing of it.
    mounts.try_sh(&format!(
        "dd if=/dev/zero of=image bs=1M count=2048 2>dd.log; mkfs.{kind} -q image; mkdir disk; mount -o loop image disk"
    ))?;
    let mut took = [PLAIN, DURABLE, CP].map(|command| (command, Vec::new()));
    for _ in 0..reps {
        for (command, seconds) in &mut took {
            mounts.sh("rm -rf disk/replica; sync");
            let script = format!("TWINDIR={}; {command}", scratch.program().display());
            let begun = Instant::now();
            mounts.sh(&script);
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    Some(took.map(|(_, seconds)| median(&seconds)))
}

fn make(source: &Path, files: u64) {
    let mut rng = fastrand::Rng::with_seed(1);
    for file in 0..files {
        let dir = source.join((file / FILES_IN_EACH).to_string());
        fs::create_dir_all(&dir).expect("a directory can be made");
        let mut bytes = vec![0; rng.usize(200..16_000)];
        rng.fill(&mut bytes);
        fs::write(dir.join(file.to_string()), bytes).expect("a file can be made");
    }
}
