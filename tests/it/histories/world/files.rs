//! Operations on files and symlinks.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::{World, remove_any};
use crate::support::xattr::set_xattr;
use crate::support::{path, set_mode, set_mtime};

impl World {
    pub fn create(&mut self) -> Option<String> {
        let (at, bytes) = (self.free_name(), self.bytes());
        fs::write(&at, &bytes).unwrap();
        Some(format!("{at:?} of {}", bytes.len()))
    }

    pub fn create_for_a_moment(&mut self) -> Option<String> {
        let (at, bytes) = (self.free_name(), self.few_bytes());
        fs::write(&at, &bytes).unwrap();
        fs::remove_file(&at).unwrap();
        Some(format!("{at:?}"))
    }

    pub fn remove_and_create(&mut self) -> Option<String> {
        let (at, bytes) = (self.pick_file()?, self.few_bytes());
        fs::remove_file(&at).unwrap();
        fs::write(&at, &bytes).unwrap();
        Some(format!("{at:?} of {}", bytes.len()))
    }

    pub fn remove(&mut self) -> Option<String> {
        let at = self.pick(|entry| !entry.is_dir())?;
        fs::remove_file(&at).unwrap();
        Some(format!("{at:?}"))
    }

    pub fn overwrite(&mut self) -> Option<String> {
        let at = self.pick_file()?;
        let mut bytes = fs::read(&at).unwrap();
        self.rng.fill(&mut bytes);
        fs::write(&at, bytes).unwrap();
        Some(format!("{at:?}"))
    }

    pub fn overwrite_in_silence(&mut self) -> Option<String> {
        let at = self.pick(|entry| entry.is_file() && entry.len() > 0)?;
        let metadata = fs::metadata(&at).unwrap();
        let mut bytes = fs::read(&at).unwrap();
        let place = self.rng.usize(..bytes.len());
        bytes[place] ^= 1 << self.rng.u8(..8);
        fs::write(&at, bytes).unwrap();
        set_mtime(&at, metadata.mtime(), metadata.mtime_nsec());
        Some(format!("{at:?} at {place}"))
    }

    /// As databases write: nothing is cut off first.
    pub fn write_in_the_middle(&mut self) -> Option<String> {
        let (at, bytes) = (self.pick_file()?, self.few_bytes());
        let file = File::options().write(true).open(&at).unwrap();
        let place = self.rng.u64(..=file.metadata().unwrap().len());
        file.write_all_at(&bytes, place).unwrap();
        Some(format!("{at:?} at {place}, {} bytes", bytes.len()))
    }

    /// Through a file that was opened some operations ago, and may have been renamed since, or have
    /// other names by now.
    pub fn write_held(&mut self) -> Option<String> {
        let Some(file) = self.held.take() else {
            let at = self.pick_file()?;
            self.hold(File::options().write(true).open(&at).unwrap());
            return Some(format!("opened {at:?}"));
        };
        let at = self.told_name_of(&file)?;
        let (bytes, place) = (self.few_bytes(), self.rng.u64(..=file.metadata().unwrap().len()));
        file.write_all_at(&bytes, place).unwrap();
        let end = if self.rng.bool() { "and closed" } else { "and still open" };
        self.held = (end == "and still open").then_some(file);
        Some(format!("{at:?} at {place}, {} bytes, {end}", bytes.len()))
    }

    /// The name under which a write is told: the one by which it was opened, wherever that has
    /// moved, also if it is gone or another file's. Where the directory of that name is gone or
    /// outside, nobody could know of the write.
    fn told_name_of(&self, file: &File) -> Option<PathBuf> {
        let at = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        let bytes = at.as_os_str().as_bytes();
        let at =
            PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)));
        let dir = fs::symlink_metadata(at.parent()?).ok()?;
        // One that was made since is another one.
        let stands = at.starts_with(&self.source)
            && dir.is_dir()
            && dir.created().ok()? <= self.held_since?;
        stands.then_some(at)
    }

    /// A log is rotated: the file that somebody has open for writing gets another name, and its
    /// first one goes, or is another file's.
    pub fn rotate_held(&mut self) -> Option<String> {
        let (at, to) = (self.pick_file()?, self.free_name());
        self.hold(File::options().append(true).open(&at).unwrap());
        fs::hard_link(&at, &to).unwrap();
        if self.rng.bool() {
            fs::remove_file(&at).unwrap();
            return Some(format!("{at:?} as {to:?}, removed"));
        }
        let next = at.with_file_name("the next log");
        fs::write(&next, self.few_bytes()).unwrap();
        fs::rename(&next, &at).unwrap();
        Some(format!("{at:?} as {to:?}, another in its place"))
    }

    /// A file that is made without a name, and gets one. None where the file system makes none.
    pub fn create_unnamed(&mut self) -> Option<String> {
        let (at, dir) = (self.free_name(), self.pick_parent());
        let made =
            rustix::fs::open(&dir, OFlags::TMPFILE | OFlags::WRONLY, Mode::RUSR | Mode::WUSR)
                .ok()?;
        let by = format!("/proc/self/fd/{}", made.as_raw_fd());
        rustix::fs::linkat(CWD, by, CWD, &at, AtFlags::SYMLINK_FOLLOW).unwrap();
        self.hold(File::from(made));
        Some(format!("{at:?}, in {dir:?}"))
    }

    fn hold(&mut self, file: File) {
        self.held = Some(file);
        self.held_since = Some(SystemTime::now());
    }

    pub fn write_in_pieces(&mut self) -> Option<String> {
        let at = self.free_name();
        let mut file = File::create(&at).unwrap();
        let pieces = self.rng.usize(2..12);
        for _ in 0..pieces {
            file.write_all(&self.few_bytes()).unwrap();
            std::thread::yield_now();
        }
        Some(format!("{at:?}, {pieces}"))
    }

    pub fn append(&mut self) -> Option<String> {
        let (at, bytes) = (self.pick_file()?, self.bytes());
        let mut file = File::options().append(true).open(&at).unwrap();
        file.write_all(&bytes).unwrap();
        Some(format!("{at:?} by {}", bytes.len()))
    }

    pub fn truncate(&mut self) -> Option<String> {
        let at = self.pick_file()?;
        let file = File::options().write(true).open(&at).unwrap();
        let length = self.rng.u64(..=file.metadata().unwrap().len());
        file.set_len(length).unwrap();
        Some(format!("{at:?} to {length}"))
    }

    /// As editors save.
    pub fn replace(&mut self) -> Option<String> {
        let (at, bytes) = (self.pick_file()?, self.bytes());
        let next = at.with_file_name("being saved~");
        fs::write(&next, bytes).unwrap();
        fs::rename(&next, &at).unwrap();
        Some(format!("{at:?}"))
    }

    /// As other editors save: for a moment the name is gone.
    pub fn save_with_backup(&mut self) -> Option<String> {
        let (at, bytes) = (self.pick_file()?, self.few_bytes());
        let backup = at.with_file_name("backup~");
        fs::rename(&at, &backup).ok()?;
        fs::write(&at, bytes).unwrap();
        Some(format!("{at:?} and {backup:?}"))
    }

    pub fn create_sparse(&mut self) -> Option<String> {
        let (at, bytes) = (self.free_name(), self.few_bytes());
        let file = File::create(&at).unwrap();
        let places = [0; 3].map(|_| self.rng.u64(..3_000_000));
        for place in places {
            file.write_all_at(&bytes, place).unwrap();
        }
        Some(format!("{at:?}, {} bytes at {places:?}", bytes.len()))
    }

    pub fn extend_by_hole(&mut self) -> Option<String> {
        let at = self.pick_file()?;
        let file = File::options().write(true).open(&at).unwrap();
        let length = file.metadata().unwrap().len() + self.rng.u64(1..200_000);
        file.set_len(length).unwrap();
        Some(format!("{at:?} to {length}"))
    }

    /// None where the file system keeps none.
    pub fn attribute(&mut self) -> Option<String> {
        let at = self.pick(|entry| entry.is_file() || entry.is_dir())?;
        let name = self.rng.choice(["user.one", "user.two"]).expect("two to choose from");
        if self.rng.bool() && rustix::fs::lremovexattr(&at, name).is_ok() {
            return Some(format!("{name} of {at:?} removed"));
        }
        let value = self.few_bytes();
        set_xattr(&at, name, &value).ok()?;
        Some(format!("{name} of {at:?} to {} bytes", value.len()))
    }

    /// Modes with which an ordinary user can still do all the other operations.
    pub fn chmod(&mut self) -> Option<String> {
        let at = self.pick_file()?;
        let mode = self
            .rng
            .choice([0o600, 0o644, 0o755, 0o666, 0o4711, 0o1600])
            .expect("some to choose from");
        set_mode(&at, mode);
        Some(format!("{at:?} to {mode:o}"))
    }

    /// An ordinary user's daemon may fail to look meanwhile.
    pub fn forbid_and_allow(&mut self) -> Option<String> {
        let at = self.pick(|entry| entry.is_file() || entry.is_dir())?;
        let mode = fs::metadata(&at).unwrap().mode() & 0o7777;
        set_mode(&at, 0);
        if self.rng.u8(..4) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(self.rng.u64(..20)));
        }
        set_mode(&at, mode);
        Some(format!("{at:?}"))
    }

    pub fn set_time(&mut self) -> Option<String> {
        let at = self.pick(|_| true)?;
        let (seconds, nanoseconds) =
            (self.rng.i64(0..2_000_000_000), self.rng.i64(0..1_000_000_000));
        set_mtime(&at, seconds, nanoseconds);
        Some(format!("{at:?} to {seconds}.{nanoseconds:09}"))
    }

    pub fn touch(&mut self) -> Option<String> {
        let at = self.pick_file()?;
        let file = File::options().append(true).open(&at).unwrap();
        file.set_modified(SystemTime::now()).unwrap();
        Some(format!("{at:?}"))
    }

    pub fn hard_link(&mut self) -> Option<String> {
        let (from, to) = (self.pick_file()?, self.free_name());
        fs::hard_link(&from, &to).unwrap();
        Some(format!("{from:?} as {to:?}"))
    }

    pub fn fifo(&mut self) -> Option<String> {
        let at = self.free_name();
        rustix::fs::mkfifoat(CWD, &at, Mode::RUSR).unwrap();
        Some(format!("{at:?}"))
    }

    pub fn symlink(&mut self) -> Option<String> {
        let (at, target) = (self.free_name(), self.target());
        symlink(&target, &at).unwrap();
        Some(format!("{at:?} to {target:?}"))
    }

    pub fn retarget(&mut self) -> Option<String> {
        let (at, target) = (self.pick(fs::Metadata::is_symlink)?, self.target());
        fs::remove_file(&at).unwrap();
        symlink(&target, &at).unwrap();
        Some(format!("{at:?} to {target:?}"))
    }

    pub fn retarget_by_rename(&mut self) -> Option<String> {
        let (at, target) = (self.pick(fs::Metadata::is_symlink)?, self.target());
        let next = at.with_file_name("being pointed elsewhere");
        symlink(&target, &next).unwrap();
        fs::rename(&next, &at).unwrap();
        Some(format!("{at:?} to {target:?}"))
    }

    fn target(&mut self) -> PathBuf {
        match self.rng.u8(..4) {
            0 => PathBuf::from("/etc"),
            1 => self.pick_parent(),
            2 => path(Path::new(".."), self.name()),
            _ => path(Path::new(""), self.name()),
        }
    }

    pub fn change_kind(&mut self) -> Option<String> {
        let at = self.pick_light(|_| true)?;
        remove_any(&at);
        let kind = self.rng.u8(..4);
        match kind {
            0 => fs::write(&at, self.bytes()).unwrap(),
            1 => fs::create_dir(&at).unwrap(),
            2 => symlink(self.target(), &at).unwrap(),
            _ => {
                fs::create_dir_all(at.join("x/y")).unwrap();
                fs::write(at.join("x/z"), self.bytes()).unwrap();
            }
        }
        Some(format!("{at:?} to {kind}"))
    }
}
