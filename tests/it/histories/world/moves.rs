//! Operations that give entries other names.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::{World, children, fits, is_dir, remove_any};

/// So many entries may lie outside.
const MOST_OUTSIDE: usize = 8;

/// None where the tree cannot go there, into itself for instance.
fn rename(from: &Path, to: &Path) -> Option<()> {
    fits(from, to).then(|| fs::rename(from, to).ok())?
}

impl World {
    pub fn rename_file(&mut self) -> Option<String> {
        let (from, to) = (self.pick(|entry| !entry.is_dir())?, self.free_name());
        rename(&from, &to)?;
        Some(format!("{from:?} to {to:?}"))
    }

    pub fn rename_onto_file(&mut self) -> Option<String> {
        let (from, to) = (self.pick(|entry| !entry.is_dir())?, self.pick(|entry| !entry.is_dir())?);
        rename(&from, &to)?;
        Some(format!("{from:?} to {to:?}"))
    }

    pub fn rename_dir(&mut self) -> Option<String> {
        let from = self.pick_dir()?;
        let to = if self.rng.bool() { self.free_name() } else { self.free_name_in(from.parent()?) };
        rename(&from, &to)?;
        Some(format!("{from:?} to {to:?}"))
    }

    pub fn move_into_dir(&mut self) -> Option<String> {
        let (from, into) = (self.pick_dir()?, self.pick_dir()?);
        let to = into.join(from.file_name()?);
        rename(&from, &to)?;
        Some(format!("{from:?} to {to:?}"))
    }

    pub fn rename_onto_empty_dir(&mut self) -> Option<String> {
        let (from, to) = (self.pick_dir()?, self.pick_dir()?);
        if !children(&to).is_empty() {
            return None;
        }
        rename(&from, &to)?;
        Some(format!("{from:?} to {to:?}"))
    }

    pub fn rename_there_and_back(&mut self) -> Option<String> {
        let (from, to) = (self.pick(|_| true)?, self.free_name());
        rename(&from, &to)?;
        fs::rename(&to, &from).unwrap();
        Some(format!("{from:?} to {to:?}"))
    }

    pub fn rename_twice(&mut self) -> Option<String> {
        let (a, b) = (self.pick(|_| true)?, self.free_name());
        rename(&a, &b)?;
        let c = self.free_name();
        let end = rename(&b, &c).map_or_else(String::new, |()| format!(" to {c:?}"));
        Some(format!("{a:?} to {b:?}{end}"))
    }

    /// Each name of a directory gets what the name before it had; the last one's is gone.
    pub fn shift_names(&mut self) -> Option<String> {
        let dir = self.pick_parent();
        let mut names: Vec<PathBuf> = children(&dir)
            .into_iter()
            .filter(|(_, is_dir)| !is_dir)
            .map(|(name, _)| dir.join(name))
            .collect();
        names.truncate(5);
        for pair in names.windows(2).rev() {
            fs::rename(&pair[0], &pair[1]).unwrap();
        }
        (names.len() > 1).then(|| format!("{names:?}"))
    }

    pub fn exchange(&mut self) -> Option<String> {
        let (a, b) = (self.pick(|_| true)?, self.pick(|_| true)?);
        if !fits(&a, &b) || !fits(&b, &a) {
            return None;
        }
        rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).ok()?;
        Some(format!("{a:?} and {b:?}"))
    }

    pub fn swap_by_third_name(&mut self) -> Option<String> {
        let (a, b) = (self.pick(|_| true)?, self.pick(|_| true)?);
        if a.starts_with(&b) || b.starts_with(&a) || !fits(&a, &b) || !fits(&b, &a) {
            return None;
        }
        let third = a.with_file_name("being swapped~");
        fs::rename(&a, &third).unwrap();
        fs::rename(&b, &a).unwrap();
        fs::rename(&third, &b).unwrap();
        Some(format!("{a:?} and {b:?}"))
    }

    /// `a/x` becomes `x`, and `a` becomes `x/a`.
    pub fn swap_parent_and_child(&mut self) -> Option<String> {
        let parent = self.pick_dir()?;
        let dirs = children(&parent).into_iter().filter(|(_, is_dir)| *is_dir);
        let (name, _) = self.rng.choice(dirs.collect::<Vec<_>>())?;
        let (child, risen) = (parent.join(&name), self.free_name_in(parent.parent()?));
        let below = risen.join(parent.file_name()?);
        if !fits(&parent, &below) || fs::symlink_metadata(child.join(parent.file_name()?)).is_ok() {
            return None;
        }
        fs::rename(&child, &risen).unwrap();
        fs::rename(&parent, &below).unwrap();
        Some(format!("{child:?} to {risen:?}, {parent:?} to {below:?}"))
    }

    /// `mv current old; mkdir current`
    pub fn rotate_dir(&mut self) -> Option<String> {
        let current = self.pick_light(fs::Metadata::is_dir)?;
        let old = current.with_file_name("old");
        if old == current || !fits(&current, &old) {
            return None;
        }
        if fs::symlink_metadata(&old).is_ok() {
            remove_any(&old);
        }
        fs::rename(&current, &old).unwrap();
        fs::create_dir(&current).unwrap();
        fs::write(current.join("log"), self.few_bytes()).unwrap();
        Some(format!("{current:?} to {old:?}"))
    }

    /// `log.1` becomes `log.2`, `log` becomes `log.1`, and a new `log` begins.
    pub fn rotate_files(&mut self) -> Option<String> {
        let dir = self.pick_parent();
        let [log, first, second] = ["log", "log.1", "log.2"].map(|name| dir.join(name));
        if [&log, &first, &second].into_iter().any(|at| is_dir(at)) {
            return None;
        }
        let _ = fs::rename(&first, &second);
        let _ = fs::rename(&log, &first);
        fs::write(&log, self.few_bytes()).unwrap();
        Some(format!("{log:?}"))
    }

    pub fn write_below_and_rename(&mut self) -> Option<String> {
        let (from, to) = (self.pick_dir()?, self.free_name());
        let written = self.write_below(&from);
        rename(&from, &to).map_or_else(
            || Some(format!("{written:?}, and no rename")),
            |()| Some(format!("{written:?}, {from:?} to {to:?}")),
        )
    }

    pub fn rename_and_write_below(&mut self) -> Option<String> {
        let (from, to) = (self.pick_dir()?, self.free_name());
        rename(&from, &to)?;
        let written = self.write_below(&to);
        Some(format!("{from:?} to {to:?}, {written:?}"))
    }

    /// Writes to a file of this directory, or to a new one.
    fn write_below(&mut self, dir: &Path) -> PathBuf {
        let old = children(dir).into_iter().map(|(name, _)| dir.join(name));
        let old = old.filter(|at| fs::symlink_metadata(at).is_ok_and(|entry| entry.is_file()));
        let at = self.rng.choice(old.collect::<Vec<_>>());
        let at = at.filter(|_| self.rng.bool()).unwrap_or_else(|| self.free_name_in(dir));
        fs::write(&at, self.few_bytes()).unwrap();
        at
    }

    pub fn move_out(&mut self) -> Option<String> {
        let from = self.pick_light(|_| true)?;
        let to = self.place_outside();
        rename(&from, &to)?;
        Some(format!("{from:?} to {to:?}"))
    }

    /// What was moved out before, or what was never in.
    pub fn move_in(&mut self) -> Option<String> {
        let to = self.free_name();
        let lying =
            self.rng.choice(children(&self.outside)).map(|(name, _)| self.outside.join(name));
        let from = lying.filter(|_| self.rng.u8(..3) > 0).unwrap_or_else(|| {
            let from = self.place_outside();
            self.fill(&from);
            from
        });
        rename(&from, &to)?;
        Some(format!("{from:?} to {to:?}"))
    }

    pub fn move_out_and_in(&mut self) -> Option<String> {
        let from = self.pick(|_| true)?;
        let between = self.place_outside();
        rename(&from, &between)?;
        let to = if self.rng.bool() { self.free_name() } else { from.clone() };
        let end = rename(&between, &to).map_or_else(String::new, |()| format!(" to {to:?}"));
        Some(format!("{from:?} to {between:?}{end}"))
    }

    /// In a tree that may have been in the source. To a new file: one that lies there may have a
    /// further name in the source, and what is written through the name outside is for the sweeps
    /// to find.
    pub fn write_outside(&mut self) -> Option<String> {
        let dirs = children(&self.outside).into_iter().filter(|(_, is_dir)| *is_dir);
        let (name, _) = self.rng.choice(dirs.collect::<Vec<_>>())?;
        let at = self.free_name_in(&self.outside.join(name));
        fs::write(&at, self.few_bytes()).unwrap();
        Some(format!("{at:?}"))
    }

    fn place_outside(&mut self) -> PathBuf {
        let outside = self.outside.clone();
        let lying = children(&outside);
        if lying.len() >= MOST_OUTSIDE {
            let (name, _) = self.rng.choice(lying).expect("as many as there may be");
            remove_any(&outside.join(name));
        }
        self.free_name_in(&outside)
    }
}
