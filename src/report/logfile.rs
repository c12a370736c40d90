//! The log file: an ordinary file. Lines are appended, and renaming keeps it small.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Console;
use crate::model::log_name::KEPT;
use crate::model::path::shown;

/// The size in bytes at which `LOG_FILE` is renamed to `LOG_FILE.1`.
const FULL: u64 = 10 * 1024 * 1024;

/// Bytes collected before a write. They wait until the next pause in the log at most.
const BUFFER: usize = 32 * 1024;

/// Bytes that must be written after a failure before the log counts as working again. On a full
/// disk, the last block of the file still has space for some lines.
const BLOCK: usize = 4096;

/// The log file, which is rotated by size. No other files are touched than `LOG_FILE` and
/// `LOG_FILE.1` to `LOG_FILE.10`.
pub struct RotatingFile {
    path: PathBuf,
    file: File,
    /// Lines that are not written yet.
    buffer: Vec<u8>,
    size: u64,
    /// The size at which it is rotated; more than [`FULL`] if a rotation has failed.
    full: u64,
    console: Option<Console>,
    /// Set while writes fail.
    gap: Option<Gap>,
}

/// The lines that are missing in the log.
#[derive(Default)]
struct Gap {
    lines: u64,
    /// Bytes written since the last failure.
    written: usize,
}

impl RotatingFile {
    /// Opens the log. Creates it and its folder if they are missing.
    ///
    /// # Errors
    /// If the folder cannot be created, `path` is no regular file, or the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        if let Ok(meta) = fs::metadata(path)
            && !meta.is_file()
        {
            return Err(no_file(&meta));
        }
        let file = append(path, OFlags::empty())?;
        // If LOG_FILE is a symlink, rotation renames the file itself.
        let path = fs::canonicalize(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(no_file(&meta));
        }
        let buffer = Vec::with_capacity(BUFFER);
        Ok(Self { path, file, buffer, size: meta.len(), full: FULL, console: None, gap: None })
    }

    /// Sets the console that reports a failure to write the log.
    pub(super) fn complain_to(&mut self, console: Console) {
        self.console = Some(console);
    }

    fn write_out(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.size >= self.full
            && let Err(error) = self.rotate()
        {
            self.complain(&format!(
                "cannot rotate the log {}: {error}; it grows on",
                shown(&self.path)
            ));
            self.full = self.size + FULL;
        }
        let result = self.open_again_if_gone().and_then(|()| self.file.write_all(&self.buffer));
        match result {
            Ok(()) => {
                self.size += self.buffer.len() as u64;
                self.note_if_recovered();
            }
            Err(error) => self.failed(&error),
        }
        self.buffer.clear();
    }

    /// Opens a new log at the path if somebody has moved or deleted the file. It does not follow a
    /// symlink: whoever made it may be unable to write to the target.
    fn open_again_if_gone(&mut self) -> io::Result<()> {
        let own = self.file.metadata()?;
        let is_own = |meta: fs::Metadata| (meta.dev(), meta.ino()) == (own.dev(), own.ino());
        if !fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            self.file = append(&self.path, OFlags::NOFOLLOW)?;
            self.size = self.file.metadata()?.len();
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (0..KEPT).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = append(&self.path, OFlags::NOFOLLOW)?;
        self.size = self.file.metadata()?.len();
        self.full = FULL;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    fn failed(&mut self, error: &io::Error) {
        let lost = self.buffer.split_inclusive(|byte| *byte == b'\n').count() as u64;
        if self.gap.is_none() {
            self.complain(&format!(
                "cannot write the log {}: {error}; mirroring goes on without it",
                shown(&self.path)
            ));
        }
        let gap = self.gap.get_or_insert_default();
        gap.lines += lost;
        gap.written = 0;
        // A part of a line may have been written: remove it.
        let _ = self.file.set_len(self.size);
    }

    fn note_if_recovered(&mut self) {
        let Some(gap) = &mut self.gap else { return };
        gap.written += self.buffer.len();
        if gap.written > BLOCK {
            let lost = gap.lines;
            self.gap = None;
            self.complain(&format!(
                "the log {} is written again; {lost} lines are missing in it",
                shown(&self.path)
            ));
        }
    }

    fn complain(&self, line: &str) {
        if let Some(console) = &self.console {
            console.complain(line);
        }
    }
}

/// Returns the error for a log path that is no regular file.
fn no_file(meta: &fs::Metadata) -> io::Error {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "it is a directory"
    } else if kind.is_fifo() {
        "it is a pipe, and the console shows the same lines"
    } else if kind.is_char_device() || kind.is_block_device() {
        "it is a device, and the console shows the same lines"
    } else {
        "it is a socket"
    };
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn append(path: &Path, flags: OFlags) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // A FIFO at the log's path would hold the open for ever without O_NONBLOCK.
    let flags = i32::try_from((flags | OFlags::NONBLOCK).bits()).unwrap_or_default();
    OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)
}

impl Write for RotatingFile {
    /// Takes one line. Never fails: `tracing_appender` ignores errors, so the console reports them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(line);
        if self.buffer.len() >= BUFFER || self.size + self.buffer.len() as u64 >= self.full {
            self.write_out();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        Ok(())
    }
}

impl Drop for RotatingFile {
    fn drop(&mut self) {
        self.write_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_renamed_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for number in 1..=KEPT {
            fs::write(dir.path().join(format!("log.{number}")), number.to_string()).unwrap();
        }
        fs::write(dir.path().join("log.11"), "mine").unwrap();
        fs::write(&path, vec![b'x'; usize::try_from(FULL).unwrap()]).unwrap();
        let mut log = RotatingFile::open(&path).unwrap();
        log.write_all(b"fresh\n").unwrap();
        log.flush().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("log"), "fresh\n");
        assert_eq!(read("log.1").len() as u64, FULL);
        assert_eq!(read("log.2"), "1");
        assert_eq!(read("log.10"), "9");
        assert_eq!(read("log.11"), "mine");
    }
}
