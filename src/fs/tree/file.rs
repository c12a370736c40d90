//! Open files: read on both sides, written in the replica only.

use rustix::fd::OwnedFd;
use std::io::IoSliceMut;
use std::num::NonZeroU64;

use rustix::fs::{Advice, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use super::{During, FACTS, Quirks, Result, Settings, entry_of, stat_fd, sys, xattr};
use crate::fs::errno::fs_error;
use crate::model::entry::{Entry, XattrKinds, Xattrs};
use crate::model::error::{FsError, Side};

/// A file open for reading.
#[derive(Debug)]
pub struct File {
    pub(super) fd: OwnedFd,
    pub(super) side: Side,
    pub(super) quirks: Quirks,
}

impl File {
    /// Returns the facts of the open file, even if another entry has its name by now.
    pub fn entry(&self) -> Result<Entry> {
        let stat = stat_fd(&self.fd, FACTS).during(self.side, "examine the file")?;
        Ok(self.quirks.seen(entry_of(&stat, Box::default()), || xattr::acl(&self.fd)))
    }

    /// Whether the first byte of the file is in the page cache. Returns `true` if that is not
    /// known.
    pub fn is_cached(&self) -> bool {
        let mut byte = [0];
        let mut buffers = [IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(&self.fd, &mut buffers, 0, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
    }

    /// Asks the kernel to drop `len` bytes from `offset` on from the page cache. Pages in use stay.
    pub fn drop_cached(&self, offset: u64, len: u64) {
        // Only advice: nothing is lost if the kernel ignores it.
        let _ = rustix::fs::fadvise(&self.fd, offset, NonZeroU64::new(len), Advice::DontNeed);
    }

    /// Reads from a byte offset until the buffer is full or the file ends. Returns the number of
    /// bytes read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            match retry_on_intr(|| sys::pread(&self.fd, &mut buffer[done..], at)) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(errno) => return Err(self.error("read the file", errno)),
            }
        }
        Ok(done)
    }

    /// Whether the contents end exactly after `size` bytes. Some file systems report wrong sizes
    /// (procfs, sysfs, some behind FUSE).
    pub fn ends_at(&self, size: u64) -> Result<bool> {
        let mut byte = [0];
        let has = |byte: &mut [u8], offset| Ok(self.read_at(byte, offset)? == 1);
        Ok((size == 0 || has(&mut byte, size - 1)?) && !has(&mut byte, size)?)
    }

    /// Returns where the next range of data at or after `offset` begins and ends, in bytes. Returns
    /// `None` if only a hole follows. On a file system without holes, the range has no end.
    pub fn next_data(&self, offset: u64) -> Result<Option<(u64, Option<u64>)>> {
        let begin = match sys::seek(&self.fd, SeekFrom::Data(offset)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, None))),
            Err(errno) => return Err(self.error("read the file", errno)),
        };
        let end = sys::seek(&self.fd, SeekFrom::Hole(begin)).during(self.side, "read the file")?;
        Ok(Some((begin, Some(end))))
    }

    /// Returns those of its extended attributes that `kinds` selects.
    pub fn xattrs(&self, kinds: XattrKinds) -> Result<Xattrs> {
        xattr::read(&self.fd, kinds, self.quirks).during(self.side, "read the extended attributes")
    }

    fn error(&self, operation: &'static str, errno: Errno) -> FsError {
        fs_error(operation, self.side, errno)
    }
}

/// A file of the replica that may be changed: a temporary file to be filled, or an existing file
/// whose metadata is set in place.
#[derive(Debug)]
pub struct NewFile(pub(super) File);

/// The result of [`NewFile::copy_range`].
pub enum Ranged {
    /// The number of bytes that were copied; 0 at the end of the source.
    Copied(usize),
    /// The two file systems cannot copy ranges between them.
    Unsupported,
}

impl NewFile {
    pub fn as_file(&self) -> &File {
        &self.0
    }

    /// Shares the source's blocks (btrfs, XFS, bcachefs). Returns `false` if that fails.
    pub fn reflink(&self, source: &File) -> bool {
        sys::ioctl_ficlone(&self.0.fd, &source.fd).is_ok()
    }

    /// Copies at most `len` bytes in the kernel, from `offset` in `source` to the same offset here.
    pub fn copy_range(&self, source: &File, offset: u64, len: usize) -> Result<Ranged> {
        let (mut from, mut to) = (offset, offset);
        let result = retry_on_intr(|| {
            sys::copy_file_range(&source.fd, Some(&mut from), &self.0.fd, Some(&mut to), len)
        });
        match result {
            Ok(copied) => Ok(Ranged::Copied(copied)),
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::BADF,
            ) => Ok(Ranged::Unsupported),
            Err(errno) => Err(fs_error("write the file", self.blame(errno, source), errno)),
        }
    }

    pub fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        while !bytes.is_empty() {
            match retry_on_intr(|| sys::pwrite(&self.0.fd, bytes, offset)) {
                Ok(0) => return Err(self.0.error("write the file", Errno::IO)),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(errno) => return Err(self.0.error("write the file", errno)),
            }
        }
        Ok(())
    }

    /// Returns the side to blame for a failed copy of a range, since the kernel does not report it.
    /// `EIO` is blamed on the source. Other errors (space, quota, limits) are blamed on this file.
    fn blame(&self, errno: Errno, source: &File) -> Side {
        if errno == Errno::IO { source.side } else { self.0.side }
    }

    /// Sets the length in bytes. Ranges that were not written read as zeros and take no space.
    pub fn set_len(&self, len: u64) -> Result<()> {
        sys::ftruncate(&self.0.fd, len).during(self.0.side, "write the file")
    }

    /// Waits until the contents are safe on the disk.
    ///
    /// # Errors
    /// Also errors of earlier writes that only show now.
    pub fn flush(&self) -> Result<()> {
        sys::fdatasync(&self.0.fd).during(self.0.side, "write to the disk")
    }

    /// Sets the metadata that `settings` contains.
    pub fn set(&self, settings: &Settings<'_>) -> Result<()> {
        settings.apply(&self.0.fd, self.0.side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::Root;

    #[test]
    fn a_file_that_is_dropped_from_the_page_cache_is_not_cached_until_it_is_read() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        let dir = Root::new(top.path(), Side::Source).open_source().unwrap().0;
        let (file, _) = dir.open_file(b"f").unwrap();
        assert!(file.is_cached());
        file.drop_cached(0, 100_000);
        if file.is_cached() {
            // tmpfs, which is in memory alone, or a file system that does not report this.
            return println!("skipped: this file system has no page cache that can be asked");
        }
        assert_eq!(file.read_at(&mut [0; 10], 0), Ok(10));
        assert!(file.is_cached());
    }
}
