//! MD5 in lanes, compared with `md-5`: any number of messages, with lengths around the limits of
//! blocks and pieces.

use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use md5::Digest;
use proptest::prelude::*;

use super::holds;
use crate::fs::digest::{Pair, Streams, compare_all, hash_all, test_lanes};
use crate::fs::tree::{File, Root};
use crate::model::entry::{Entry, Md5};
use crate::model::error::Side;

fn plain(message: &[u8]) -> Md5 {
    Md5(md5::Md5::digest(message).into())
}

/// Makes bytes of which no two parts are alike.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    });
    pool[7 * usize::from(seed)..][..length].to_vec()
}

/// Makes a length close to a multiple of 64 bytes (a block), of 4 KiB, or of 64 KiB (a piece).
fn length() -> impl Strategy<Value = usize> {
    let close = |unit: usize, up_to: usize| {
        (0..up_to, 0..20_usize).prop_map(move |(n, off)| (n * unit + off).saturating_sub(10))
    };
    prop_oneof![40 => close(64, 40), 10 => close(4096, 5), 1 => close(64 * 1024, 4)]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    (length(), any::<u8>()).prop_map(|(length, seed)| bytes(length, seed))
}

#[test]
fn the_lanes_of_this_machine_are_sound() {
    assert!(test_lanes());
}

#[test]
fn many_digests_at_once_are_those_of_each() {
    holds(&proptest::collection::vec(message(), 0..70), |messages| {
        let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let wanted: Vec<Md5> = messages.iter().map(|message| plain(message)).collect();
        assert!(hash_all(&slices) == wanted);
    });
}

#[test]
fn messages_in_pieces_that_begin_and_end_at_any_time_have_their_digests() {
    let pieces = proptest::collection::vec(message(), 1..4);
    holds(&proptest::collection::vec(pieces, 1..50), |messages| {
        let mut streams = Streams::default();
        let mut waiting: Vec<_> = messages.iter().map(|pieces| (pieces, 0)).collect();
        for _ in &waiting {
            streams.push();
        }
        while !waiting.is_empty() {
            let now: Vec<&[u8]> =
                waiting.iter().map(|(pieces, at)| pieces[*at].as_slice()).collect();
            streams.update(&now);
            for at in (0..waiting.len()).rev() {
                waiting[at].1 += 1;
                let (pieces, done) = waiting[at];
                if done == pieces.len() {
                    assert!(streams.end(at) == plain(&pieces.concat()));
                    waiting.swap_remove(at);
                }
            }
        }
    });
}

/// A pair of files, and the edit of the second one before it is read.
type Case = (Vec<u8>, Vec<u8>, FileEdit);

#[derive(Clone, Copy, Debug)]
enum FileEdit {
    Nothing,
    Shrinks,
    Grows,
}

fn change() -> impl Strategy<Value = FileEdit> {
    proptest::sample::select(vec![
        FileEdit::Nothing,
        FileEdit::Nothing,
        FileEdit::Shrinks,
        FileEdit::Grows,
    ])
}

#[test]
fn pairs_of_files_side_by_side_have_their_digests_also_where_they_shrink_or_grow() {
    let case =
        (length(), any::<u8>(), 0..2_u8, change()).prop_map(|(length, seed, other, change)| {
            (bytes(length, seed), bytes(length, seed ^ other), change)
        });
    holds(&proptest::collection::vec(case, 1..40), |cases: Vec<Case>| {
        let top = tempfile::tempdir().unwrap();
        let dir = Root::new(top.path(), Side::Source).open_source().unwrap().0;
        let open = |name: String, bytes: &[u8]| -> (File, Entry) {
            fs::write(top.path().join(&name), bytes).unwrap();
            dir.open_file(name.as_bytes()).unwrap()
        };
        let mut pairs = cases.iter().enumerate().map(|(at, (one, other, change))| {
            let pair = Pair {
                what: at,
                source: open(format!("{at}s"), one),
                replica: open(format!("{at}r"), other),
            };
            let changed = match change {
                FileEdit::Nothing => other.clone(),
                FileEdit::Shrinks => other[..other.len() / 2].to_vec(),
                FileEdit::Grows => [other.as_slice(), b"more"].concat(),
            };
            fs::write(top.path().join(format!("{at}r")), changed).unwrap();
            pair
        });
        let mut told = 0;
        compare_all(
            || pairs.next(),
            true,
            |_| {},
            &AtomicBool::new(false),
            |pair, digests| {
                let (one, other, change) = &cases[pair.what];
                let read = match change {
                    FileEdit::Nothing => other.clone(),
                    FileEdit::Shrinks => other[..other.len() / 2].to_vec(),
                    // One byte beyond the expected end shows that there is more.
                    FileEdit::Grows => [other.as_slice(), b"m"].concat(),
                };
                let digests = digests.unwrap();
                assert!((digests.source, digests.replica) == (plain(one), plain(&read)));
                told += 1;
            },
        );
        assert_eq!(told, cases.len());
    });
}
