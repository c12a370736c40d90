//! The trees that are mirrored.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fastrand::Rng;

use crate::trees::fill;

/// A tree of a kind.
pub struct Set {
    pub name: &'static str,
    pub what: &'static str,
    /// Too small to be copied or read for the sake of figures.
    pub for_quick: bool,
    make: fn(&Path, &mut Rng),
}

pub const SETS: [Set; 4] = [
    Set {
        name: "small",
        what: "50,000 files of 0.2 to 16 kB in 500 directories",
        for_quick: false,
        make: small,
    },
    Set {
        name: "large",
        what: "32 files of 64 MB in one directory",
        for_quick: false,
        make: large,
    },
    Set {
        name: "mixed",
        what: "20,000 files in 2,000 directories up to 6 deep, most below 10 kB, 20 of 10 MB, 500 symlinks",
        for_quick: false,
        make: mixed,
    },
    Set {
        name: "many",
        what: "100,000 files of 100 bytes in 1,000 directories",
        for_quick: true,
        make: many,
    },
];

impl Set {
    /// Makes the tree, the same each time.
    pub fn make(&self, root: &Path) {
        fs::create_dir_all(root).expect("a folder can be made");
        (self.make)(root, &mut Rng::with_seed(7));
    }
}

fn small(root: &Path, rng: &mut Rng) {
    for dir in 0..500 {
        let dir = root.join(format!("d{dir:03}"));
        fs::create_dir(&dir).expect("a folder can be made");
        for file in 0..100 {
            let size = rng.usize(200..16_000);
            fill(&dir.join(format!("f{file:03}")), size, rng);
        }
    }
}

fn many(root: &Path, rng: &mut Rng) {
    for dir in 0..1_000 {
        let dir = root.join(format!("d{dir:03}"));
        fs::create_dir(&dir).expect("a folder can be made");
        for file in 0..100 {
            fill(&dir.join(format!("f{file:02}")), 100, rng);
        }
    }
}

fn large(root: &Path, rng: &mut Rng) {
    for file in 0..32 {
        fill(&root.join(format!("f{file:02}")), 64 << 20, rng);
    }
}

fn mixed(root: &Path, rng: &mut Rng) {
    let mut dirs = vec![root.to_owned()];
    while dirs.len() < 2_000 {
        let above = dirs[rng.usize(..dirs.len())].clone();
        if above.components().count() < root.components().count() + 6 {
            let dir = above.join(format!("dir{}", dirs.len()));
            fs::create_dir(&dir).expect("a folder can be made");
            dirs.push(dir);
        }
    }
    for number in 0..20_000 {
        let dir = &dirs[rng.usize(..dirs.len())];
        // As many of each power of two from 100 bytes to 12.8 kB; few are larger.
        let least = 100 << rng.usize(..7);
        let size = match number % 1_000 {
            0 => 10 << 20,
            1..20 => rng.usize(10_000..400_000),
            _ => rng.usize(least..2 * least),
        };
        fill(&dir.join(format!("file{number}.rs")), size, rng);
    }
    for number in 0..500 {
        let dir = &dirs[rng.usize(..dirs.len())];
        symlink("../somewhere/else", dir.join(format!("link{number}")))
            .expect("a symlink can be made");
    }
}
