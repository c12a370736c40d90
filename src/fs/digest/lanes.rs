//! Many MD5s at once, each in a lane of the processor's vector registers: one MD5 is a chain of
//! steps that wait for each other, and leaves most of a core idle.
//!
//! The lanes are those of the crate `md5-many`. Without the feature `lanes`, and where they fail
//! the test at the start, the same is done by `md-5`, one message after the other.

use std::sync::atomic::{AtomicBool, Ordering};

use md5::Digest;

use crate::model::entry::Md5;

#[cfg(feature = "lanes")]
use md5_many::{Md5Many, Md5State};

/// Set where the lanes gave a wrong digest.
static UNSOUND: AtomicBool = AtomicBool::new(false);

/// Lengths around the borders of MD5's blocks of 64 bytes, where the last 9 are padding, and
/// beyond.
const LENGTHS: [usize; 12] = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1_000, 4_097];

/// Compares what the lanes give with what `md-5` gives, and gives them up for this run where they
/// differ. Whether they are as they should be.
pub fn test_lanes() -> bool {
    let bytes: Vec<u8> =
        (0..4_097_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // As many as fill all lanes there are, and some more.
    let messages: Vec<&[u8]> = (0..61)
        .map(|at| &bytes[at..][..LENGTHS[at % LENGTHS.len()].min(bytes.len() - at)])
        .collect();
    let mut streams = Streams::default();
    for _ in &messages {
        streams.push();
    }
    for half in 0..2 {
        let halves: Vec<&[u8]> = messages
            .iter()
            .map(|message| message.split_at(message.len() / 3))
            .map(|halves| if half == 0 { halves.0 } else { halves.1 })
            .collect();
        streams.update(&halves);
    }
    let wanted: Vec<Md5> = messages.iter().map(|message| one(message)).collect();
    let streamed: Vec<Md5> = (0..messages.len()).rev().map(|at| streams.end(at)).collect();
    let sound = hash_all(&messages) == wanted && streamed.iter().rev().eq(&wanted);
    UNSOUND.store(!sound, Ordering::Relaxed);
    sound
}

/// Uses the lanes from now on, or `md-5` alone.
#[cfg(feature = "parts")]
pub fn use_lanes(used: bool) {
    UNSOUND.store(!used, Ordering::Relaxed);
}

fn one(message: &[u8]) -> Md5 {
    Md5(md5::Md5::digest(message).into())
}

/// The MD5s of many messages.
pub fn hash_all(messages: &[&[u8]]) -> Vec<Md5> {
    #[cfg(feature = "lanes")]
    if !UNSOUND.load(Ordering::Relaxed) {
        return in_lanes(messages);
    }
    messages.iter().map(|message| one(message)).collect()
}

/// Messages of about the same length side by side, so that no lane is idle for long.
#[cfg(feature = "lanes")]
fn in_lanes(messages: &[&[u8]]) -> Vec<Md5> {
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|at| messages[*at].len());
    let sorted: Vec<&[u8]> = order.iter().map(|at| messages[*at]).collect();
    let mut digests = vec![[0; 16]; messages.len()];
    Md5Many::new().hash_many(&sorted, &mut digests);
    let mut result = vec![Md5::default(); messages.len()];
    for (at, digest) in order.into_iter().zip(digests) {
        result[at] = Md5(digest);
    }
    result
}

/// Messages that come in pieces.
pub enum Streams {
    #[cfg(feature = "lanes")]
    Lanes(Vec<Md5State>),
    Ones(Vec<md5::Md5>),
}

impl Default for Streams {
    fn default() -> Self {
        #[cfg(feature = "lanes")]
        if !UNSOUND.load(Ordering::Relaxed) {
            return Self::Lanes(Vec::new());
        }
        Self::Ones(Vec::new())
    }
}

impl Streams {
    /// Begins one more.
    pub fn push(&mut self) {
        match self {
            #[cfg(feature = "lanes")]
            Self::Lanes(states) => states.push(Md5State::new()),
            Self::Ones(hashers) => hashers.push(md5::Md5::new()),
        }
    }

    /// Adds a piece to each, in their order. A piece may be empty.
    pub fn update(&mut self, pieces: &[&[u8]]) {
        match self {
            #[cfg(feature = "lanes")]
            Self::Lanes(states) => Md5Many::new().update_many(states, pieces),
            Self::Ones(hashers) => {
                hashers.iter_mut().zip(pieces).for_each(|(hasher, piece)| hasher.update(piece));
            }
        }
    }

    /// Ends one: its digest. The last takes its place.
    pub fn end(&mut self, at: usize) -> Md5 {
        match self {
            #[cfg(feature = "lanes")]
            Self::Lanes(states) => Md5(states.swap_remove(at).finalize()),
            Self::Ones(hashers) => Md5(hashers.swap_remove(at).finalize().into()),
        }
    }
}
