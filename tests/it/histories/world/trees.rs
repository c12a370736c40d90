//! Operations on directories and what is below them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use super::{World, children, fits, remove_any, weight};
use crate::support::{path, set_mode, set_mtime};

/// A copy of more than so much would be most of what there is.
const MOST_COPIED: (usize, u64) = (150, 20_000_000);

impl World {
    pub fn mkdir_deep(&mut self) -> Option<String> {
        let mut at = self.free_name();
        for _ in 0..self.rng.u8(..4) {
            at = path(&at, self.name());
        }
        fs::create_dir_all(&at).unwrap();
        Some(format!("{at:?}"))
    }

    pub fn make_deep_tree(&mut self) -> Option<String> {
        let mut at = self.free_name();
        for level in 0..self.rng.usize(10..40) {
            fs::create_dir(&at).unwrap();
            if self.rng.bool() {
                fs::write(at.join("file"), self.few_bytes()).unwrap();
            }
            at.push(level.to_string());
        }
        Some(format!("{at:?}"))
    }

    pub fn make_many_files(&mut self) -> Option<String> {
        let mut at = self.free_name();
        for _ in 0..self.rng.u8(..3) {
            at = path(&at, self.name());
        }
        fs::create_dir_all(&at).unwrap();
        let count = self.rng.usize(5..60);
        for number in 0..count {
            fs::write(at.join(format!("f{number}")), self.few_bytes()).unwrap();
        }
        Some(format!("{at:?}, {count}"))
    }

    /// Makes a small tree at a name that does not stand yet.
    pub fn fill(&mut self, at: &Path) {
        fs::create_dir_all(at.join("within")).unwrap();
        for number in 0..self.rng.usize(..5) {
            fs::write(at.join(format!("f{number}")), self.few_bytes()).unwrap();
            fs::write(at.join(format!("within/f{number}")), self.few_bytes()).unwrap();
        }
        symlink("within", at.join("link")).unwrap();
    }

    /// Its directories may still be on their way to being watched, under the first name.
    pub fn rename_while_filling(&mut self) -> Option<String> {
        let (from, to) = (self.free_name(), self.free_name());
        self.fill(&from);
        fs::rename(&from, &to).ok()?;
        fs::write(to.join("within/late"), self.few_bytes()).unwrap();
        fs::create_dir(to.join("within/later")).unwrap();
        fs::write(to.join("within/later/still"), self.few_bytes()).unwrap();
        Some(format!("{from:?} to {to:?}"))
    }

    pub fn copy_tree(&mut self) -> Option<String> {
        let (from, to) = (self.pick_dir()?, self.free_name());
        let (entries, bytes) = weight(&from);
        if to.starts_with(&from)
            || !fits(&from, &to)
            || entries > MOST_COPIED.0
            || bytes > MOST_COPIED.1
        {
            return None;
        }
        let with_times = self.rng.bool();
        copy(&from, &to, with_times);
        Some(format!("{from:?} to {to:?}, times too: {with_times}"))
    }

    pub fn remove_tree(&mut self) -> Option<String> {
        let at = self.pick_light(fs::Metadata::is_dir)?;
        fs::remove_dir_all(&at).unwrap();
        Some(format!("{at:?}"))
    }

    pub fn empty_dir(&mut self) -> Option<String> {
        let at = self.pick_light(fs::Metadata::is_dir)?;
        for (name, _) in children(&at) {
            remove_any(&at.join(name));
        }
        Some(format!("{at:?}"))
    }

    pub fn remake_tree(&mut self) -> Option<String> {
        let at = self.pick_light(fs::Metadata::is_dir)?;
        fs::remove_dir_all(&at).unwrap();
        self.fill(&at);
        Some(format!("{at:?}"))
    }

    /// The root too.
    pub fn change_dir(&mut self) -> Option<String> {
        let at = self.pick_parent();
        if self.rng.bool() {
            let mode = self
                .rng
                .choice([0o700, 0o755, 0o750, 0o1777, 0o2755])
                .expect("some to choose from");
            set_mode(&at, mode);
            return Some(format!("{at:?} to {mode:o}"));
        }
        let (seconds, nanoseconds) =
            (self.rng.i64(0..2_000_000_000), self.rng.i64(0..1_000_000_000));
        set_mtime(&at, seconds, nanoseconds);
        Some(format!("{at:?} to {seconds}.{nanoseconds:09}"))
    }
}

/// As `cp -r`, or `cp -a`.
fn copy(from: &Path, to: &Path, with_times: bool) {
    let metadata = fs::symlink_metadata(from).unwrap();
    if metadata.is_dir() {
        fs::create_dir(to).unwrap();
        for (name, _) in children(from) {
            copy(&from.join(&name), &to.join(&name), with_times);
        }
    } else if metadata.is_symlink() {
        symlink(fs::read_link(from).unwrap(), to).unwrap();
    } else if metadata.is_file() {
        fs::copy(from, to).unwrap();
    } else {
        // Reading a FIFO would not end.
        return;
    }
    if with_times {
        set_mtime(to, metadata.mtime(), metadata.mtime_nsec());
    }
}
