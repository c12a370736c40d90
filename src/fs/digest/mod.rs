//! MD5 of files. A single file is read in chunks, so that memory does not grow with the file. Many
//! files can be hashed at once.

mod lanes;
mod pairs;

#[cfg(test)]
pub use lanes::Streams;
#[cfg(feature = "parts")]
pub use lanes::use_lanes;
pub use lanes::{hash_all, test_lanes};
pub use pairs::{Pair, SIDE_BY_SIDE, compare_all};

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use md5::Digest;

use crate::fs::tree::File;
use crate::model::entry::{DigestPair, Entry, Md5};
use crate::model::error::WorkError;

/// Bytes per read. Each thread keeps one buffer of this size until it ends.
const CHUNK: usize = 256 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Most bytes that are read past the reported size of a file. Some file systems report wrong sizes.
pub const MAX_READ_PAST_SIZE: u64 = 64 * 1024 * 1024;

/// Lends the thread's buffer of [`CHUNK`] bytes to `work`.
///
/// # Panics
/// If `work` calls this function again.
pub fn with_buffer<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(CHUNK, 0);
        work(buffer)
    })
}

/// Computes the MD5 of a file. Its size should be `size` bytes. The file is read to its real end,
/// but at most [`MAX_READ_PAST_SIZE`] bytes past `size`.
///
/// # Errors
/// Read errors, and [`WorkError::Cancelled`] once `cancel` is set.
pub fn md5_of(file: &File, size: u64, cancel: &AtomicBool) -> Result<Md5, WorkError> {
    md5_with_progress(file, size, cancel, &|_| {})
}

/// Does the same as [`md5_of`], and calls `on_read` after each chunk with the number of bytes read.
pub fn md5_with_progress(
    file: &File,
    size: u64,
    cancel: &AtomicBool,
    on_read: &(dyn Fn(u64) + Sync),
) -> Result<Md5, WorkError> {
    let mut hasher = md5::Md5::new();
    with_buffer(|buffer| {
        let mut offset = 0;
        let limit = size.saturating_add(MAX_READ_PAST_SIZE);
        while offset < limit {
            if cancel.load(Ordering::Relaxed) {
                return Err(WorkError::Cancelled);
            }
            let want = usize::try_from(limit - offset).unwrap_or(CHUNK).min(CHUNK);
            let read = file.read_at(&mut buffer[..want], offset)?;
            hasher.update(&buffer[..read]);
            on_read(read as u64);
            if read < want {
                break;
            }
            offset += read as u64;
        }
        Ok(())
    })?;
    Ok(Md5(hasher.finalize().into()))
}

/// Computes the digests of a pair of files. They are valid for the states in `source` and
/// `replica`, if both files are still in these states: see [`ensure_unchanged`].
///
/// # Errors
/// Read errors, and [`WorkError::Cancelled`] once `cancel` is set.
pub fn compare(
    source: (&File, &Entry),
    replica: (&File, &Entry),
    cancel: &AtomicBool,
) -> Result<DigestPair, WorkError> {
    Ok(DigestPair {
        source: md5_of(source.0, source.1.size, cancel)?,
        replica: md5_of(replica.0, replica.1.size, cancel)?,
    })
}

/// Checks that a file is still in the state `before`, which was observed before it was read.
///
/// # Errors
/// [`WorkError::Changed`] if it has changed; an error of the file system if that cannot be read.
pub fn ensure_unchanged((file, before): (&File, &Entry)) -> Result<(), WorkError> {
    if file.entry()?.identity() == before.identity() { Ok(()) } else { Err(WorkError::Changed) }
}

/// Does the same as [`compare`] with one thread a side, for large files. Calls `on_read` after each
/// chunk with the number of bytes read. If no second thread can be started, `on_read` is not called.
///
/// # Errors
/// As [`compare`].
pub fn compare_large(
    source: (&File, &Entry),
    replica: (&File, &Entry),
    cancel: &AtomicBool,
    on_read: &(dyn Fn(u64) + Sync),
) -> Result<DigestPair, WorkError> {
    let helped = std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("twindir-md5".into());
        let helper = builder
            .spawn_scoped(scope, || md5_with_progress(replica.0, replica.1.size, cancel, on_read))
            .ok()?;
        let own = md5_with_progress(source.0, source.1.size, cancel, on_read);
        let other = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Some(own.and_then(|source| other.map(|replica| DigestPair { source, replica })))
    });
    // No second thread can be started (a limit on processes): this one reads both files.
    helped.unwrap_or_else(|| compare(source, replica, cancel))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::Root;
    use crate::model::error::Side;

    fn md5(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), bytes).unwrap();
        let root = Root::new(dir.path(), Side::Source);
        let (file, entry) = root.open_source().unwrap().0.open_file(b"f").unwrap();
        md5_of(&file, entry.size, &AtomicBool::new(false)).unwrap().to_string()
    }

    #[test]
    fn the_digests_are_those_of_rfc_1321() {
        assert_eq!(md5(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(md5(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
    }

    #[test]
    fn chunk_borders_change_nothing() {
        for len in [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let whole = Md5(md5::Md5::digest(&bytes).into());
            assert_eq!(md5(&bytes), whole.to_string(), "{len} bytes");
        }
    }

    #[test]
    fn a_cancelled_digest_ends() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        let root = Root::new(dir.path(), Side::Source);
        let (file, entry) = root.open_source().unwrap().0.open_file(b"f").unwrap();
        let result = md5_of(&file, entry.size, &AtomicBool::new(true));
        assert!(matches!(result, Err(WorkError::Cancelled)));
    }
}
