//! Holes stay holes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::support::{Scratch, Tree, noise, set_mtime, skip};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

const TERABYTE: u64 = 1 << 40;

/// A file of this length with these islands of data in it; false where the file system takes no
/// such file.
fn make(at: &Path, length: u64, islands: &[(u64, &[u8])]) -> bool {
    let file = File::create(at).unwrap();
    if file.set_len(length).is_err() {
        return false;
    }
    for (offset, bytes) in islands {
        file.write_all_at(bytes, *offset).unwrap();
    }
    drop(file);
    set_mtime(at, 1_600_000_000, 123_456_789);
    true
}

/// Where data lies, and the data without the zeros around it. Reads no hole.
fn islands(at: &Path) -> Vec<(u64, Vec<u8>)> {
    let file = File::open(at).unwrap();
    let mut found = Vec::new();
    let mut end = 0;
    loop {
        let begin = match seek(&file, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => return found,
            other => other.unwrap(),
        };
        end = seek(&file, SeekFrom::Hole(begin)).unwrap();
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap()];
        file.read_exact_at(&mut bytes, begin).unwrap();
        // Blocks may be larger on the other side.
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let trimmed: Vec<u8> = bytes[zeros..].to_vec();
        let length = trimmed.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if length > 0 {
            found.push((begin + zeros as u64, trimmed[..length].to_vec()));
        }
    }
}

/// Space taken, in bytes.
fn space(at: &Path) -> u64 {
    fs::metadata(at).unwrap().blocks() * 512
}

#[test]
fn a_terabyte_with_three_islands_costs_kilobytes() {
    let scratch = Scratch::new().with_source(&Tree::new());
    let data = [noise(1, 5000), noise(2, 100_000), noise(3, 17)];
    let last = TERABYTE - 17;
    let source = scratch.source().join("disk image");
    if !make(
        &source,
        TERABYTE,
        &[(12_345, &data[0]), (TERABYTE / 2 - 7, &data[1]), (last, &data[2])],
    ) || space(&source) > 1_000_000
    {
        return skip("the file system takes no sparse file of a terabyte");
    }
    // Once: any further full sweep would hash the terabyte.
    scratch.once(&[]).expect(0);
    let replica = scratch.replica().join("disk image");
    let [ours, theirs] = [&source, &replica].map(|at| fs::metadata(at).unwrap());
    let facts = |of: &fs::Metadata| (of.len(), of.mtime(), of.mtime_nsec(), of.mode());
    assert_eq!(facts(&ours), facts(&theirs));
    assert!(
        space(&replica) <= space(&source) + 100_000,
        "{} for {}",
        space(&replica),
        space(&source)
    );
    let [ours, theirs] = [islands(&source), islands(&replica)];
    let places = |islands: &[(u64, Vec<u8>)]| {
        islands.iter().map(|(at, bytes)| (*at, bytes.len())).collect::<Vec<_>>()
    };
    assert_eq!(places(&ours), places(&theirs));
    assert!(ours == theirs, "other bytes");
    assert!(theirs.len() >= 3);
}

#[test]
fn holes_at_either_end_and_files_that_are_all_hole_stay_so() {
    let scratch = Scratch::new().with_source(&Tree::new());
    let island = noise(1, 70_000);
    let files: [(&str, u64, &[u64]); 6] = [
        ("all hole", 20_000_000, &[]),
        ("at the begin", 20_000_000, &[0]),
        ("in the middle", 20_000_000, &[9_999_999]),
        ("at the end", 20_000_000, &[19_930_000]),
        ("twice", 20_000_000, &[4096 * 100, 4096 * 1000]),
        ("small", 60_000, &[]),
    ];
    for (name, length, offsets) in files {
        let placed: Vec<_> = offsets.iter().map(|offset| (*offset, island.as_slice())).collect();
        assert!(make(&scratch.source().join(name), length, &placed));
    }
    scratch.sync();
    for (name, length, _) in files {
        let [source, replica] =
            [scratch.source(), scratch.replica()].map(|root| space(&root.join(name)));
        if length > 1_000_000 {
            assert!(replica <= source + 50_000, "{name}: {replica} for {source}");
        }
    }
    let run = scratch.sync();
    assert!(run.actions().is_empty(), "it had not settled\n{run}");
}

#[test]
fn an_island_that_comes_or_goes_is_mirrored() {
    let scratch = Scratch::new().with_source(&Tree::new());
    let (at, island) = (scratch.source().join("file"), noise(1, 70_000));
    for offsets in [&[0_u64][..], &[0, 10_000_000], &[10_000_000], &[], &[5_000_000]] {
        let placed: Vec<_> = offsets.iter().map(|offset| (*offset, island.as_slice())).collect();
        assert!(make(&at, 20_000_000, &placed));
        scratch.sync();
        let [ours, theirs] = [&at, &scratch.replica().join("file")].map(|at| space(at));
        assert!(theirs <= ours + 50_000, "{theirs} for {ours}");
    }
}
