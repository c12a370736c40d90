//! Computes many MD5s at once, each in one lane of the processor's vector registers. A single MD5
//! is a chain of steps that wait for each other. It leaves most of a core idle.
//!
//! The crate `md5-many` provides the lanes. Without the feature `lanes`, or if they fail the test
//! at the start, `md-5` hashes one message after the other instead.

use std::sync::atomic::{AtomicBool, Ordering};

use md5::Digest;

use crate::model::entry::Md5;

#[cfg(feature = "lanes")]
use md5_many::{Md5Many, Md5State};

/// Set if the lanes gave a wrong digest.
static UNSOUND: AtomicBool = AtomicBool::new(false);

/// Lengths of test messages, around the borders of MD5's blocks and beyond. A block has 64 bytes.
/// At least 9 bytes of padding follow the message.
const LENGTHS: [usize; 12] = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1_000, 4_097];

/// Compares the digests of the lanes with those of `md-5`, and disables the lanes for this run if
/// they differ. Returns whether they agree.
pub fn test_lanes() -> bool {
    let bytes: Vec<u8> =
        (0..4_097_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // Enough messages to fill all lanes, and some more.
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

/// Enables the lanes from now on, or disables them.
#[cfg(feature = "parts")]
pub fn use_lanes(used: bool) {
    UNSOUND.store(!used, Ordering::Relaxed);
}

fn one(message: &[u8]) -> Md5 {
    Md5(md5::Md5::digest(message).into())
}

/// Computes the MD5s of many messages, in their order.
pub fn hash_all(messages: &[&[u8]]) -> Vec<Md5> {
    #[cfg(feature = "lanes")]
    if !UNSOUND.load(Ordering::Relaxed) {
        return in_lanes(messages);
    }
    messages.iter().map(|message| one(message)).collect()
}

/// Hashes messages of similar length side by side, so that no lane is idle for long.
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

/// Several messages that come in pieces, and are hashed at once.
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
    /// Begins another message.
    pub fn push(&mut self) {
        match self {
            #[cfg(feature = "lanes")]
            Self::Lanes(states) => states.push(Md5State::new()),
            Self::Ones(hashers) => hashers.push(md5::Md5::new()),
        }
    }

    /// Adds a piece to each message, in the order of the messages. A piece may be empty.
    pub fn update(&mut self, pieces: &[&[u8]]) {
        match self {
            #[cfg(feature = "lanes")]
            Self::Lanes(states) => Md5Many::new().update_many(states, pieces),
            Self::Ones(hashers) => {
                hashers.iter_mut().zip(pieces).for_each(|(hasher, piece)| hasher.update(piece));
            }
        }
    }

    /// Ends the message with index `at` and returns its MD5. The last message takes its index.
    pub fn end(&mut self, at: usize) -> Md5 {
        match self {
            #[cfg(feature = "lanes")]
            Self::Lanes(states) => Md5(states.swap_remove(at).finalize()),
            Self::Ones(hashers) => Md5(hashers.swap_remove(at).finalize().into()),
        }
    }
}
