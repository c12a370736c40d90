//! What the replica's file system keeps: found by trying, once, at the start.
//!
//! What it does not keep is named, not mirrored, and compared as kept: else each sweep would
//! find it again.

use std::fmt;

use rustix::io::Errno;

use crate::copy::{Temp, TempNames};
use crate::differs::Keeps;
use crate::entry::{Entry, Time, XattrKinds, Xattrs};
use crate::fault::Fault;
use crate::path::Name;
use crate::tree::{Dir, NewFile, ReplicaDir, Settings};

/// A time that no file system stores by rounding: an odd second and all nine digits.
const ODD: Time = Time { sec: 1_000_000_001, nsec: 123_456_789 };

/// The steps in which file systems count time, in nanoseconds: ext4, NTFS, exFAT, ext3, FAT.
const STEPS: [u64; 6] = [1, 100, 1_000, 10_000_000, 1_000_000_000, 2_000_000_000];

/// An ACL that no mode can say, as the kernel takes it: version 2, then tag, permissions and id
/// of owner, user 1, group, mask and others. See acl(5) and `linux/posix_acl_xattr.h`.
const ACL: [u8; 44] = [
    2, 0, 0, 0, //
    0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
    0x02, 0, 4, 0, 1, 0, 0, 0, //
    0x04, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, //
    0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
    0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
];

/// What this process may set, on a file system that keeps all. `local`: whether no other host
/// and no other clock is concerned.
pub fn of_process(local: bool) -> Keeps {
    use rustix::process::{Gid, getegid, geteuid, getgroups};
    use rustix::thread::{CapabilitySet, capabilities};
    let owner = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::CHOWN));
    let groups = getgroups().unwrap_or_default().into_iter().chain([getegid()]).map(Gid::as_raw);
    Keeps { owner, user: geteuid().as_raw(), groups: groups.collect(), ctimes: local, ..Keeps::all() }
}

/// Tries what the file system of an open root keeps, with entries under reserved names that are
/// gone afterwards. `wanted`: what this process may set at best.
///
/// # Errors
/// Where no file can be created there.
pub fn probe(replica: &ReplicaDir, wanted: Keeps) -> Result<Keeps, Fault> {
    let before = replica.entry()?;
    let keeps = try_names(replica, wanted);
    // The directory is as it was, but for its ctime.
    let _ = replica.set(&Settings { mtime: Some(before.mtime), ..Settings::default() });
    keeps
}

/// The same by a file without a name, so that nothing changes in the directory. Where the file
/// system knows no such files it is taken for a simple one, which keeps names, kinds, contents
/// and rough times.
pub fn probe_unseen(replica: &Dir, wanted: Keeps) -> Keeps {
    match replica.create_unnamed() {
        Ok(file) => try_file(&file, wanted.clone()).unwrap_or(wanted),
        Err(fault) if matches!(fault.errno, Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Keeps {
            owner: false,
            user: wanted.user,
            groups: Vec::new(),
            xattrs: XattrKinds::NONE,
            modes: false,
            symlinks: !replica.is_fat(),
            time_step: STEPS[STEPS.len() - 1],
            folds_case: false,
            ctimes: false,
            tells_late: false,
        },
        // No right to write there, or a read-only file system: what a run would compare by.
        Err(_) => wanted,
    }
}

fn try_names(replica: &ReplicaDir, wanted: Keeps) -> Result<Keeps, Fault> {
    let names = TempNames::default();
    let name = names.next();
    let file = replica.create_file(&name)?;
    let _temp = Temp::adopt(replica, name.clone());
    let mut keeps = try_file(&file, wanted)?;
    let link = names.next();
    keeps.symlinks = !is_refused(replica.make_symlink(&link, b"x"));
    drop(Temp::adopt(replica, link));
    let upper = Name::new(&name.as_bytes().to_ascii_uppercase());
    keeps.folds_case = upper.is_some_and(|upper| replica.look(upper.as_bytes()).entry().is_some());
    Ok(keeps)
}

/// What can be tried on one file.
fn try_file(file: &NewFile, wanted: Keeps) -> Result<Keeps, Fault> {
    let entry = || file.as_file().entry();
    let mut keeps = wanted;
    keeps.user = entry()?.uid;
    keeps.modes = [0o640, 0o600].iter().all(|mode| {
        let set = file.set(&Settings { mode: Some(*mode), ..Settings::default() });
        !is_refused(set) && entry().is_ok_and(|entry| entry.mode == *mode)
    });
    file.set(&Settings { mtime: Some(ODD), ..Settings::default() })?;
    let now = entry()?;
    keeps.time_step = time_step(now.mtime);
    // Simple file systems have no ctimes, or forget them; their times are coarse, too.
    keeps.ctimes &= keeps.modes && keeps.time_step == 1 && now.ctime != now.mtime;
    keeps.xattrs.user &= try_xattr(file, b"user.twindir", b"x");
    keeps.xattrs.acl &= try_xattr(file, b"system.posix_acl_access", &ACL);
    if keeps.owner {
        keeps.owner = try_owner(file, &entry()?);
    }
    if !keeps.owner && !keeps.modes {
        // Where there are no modes there are no groups.
        keeps.groups.clear();
    }
    Ok(keeps)
}

/// Whether the answer was that such a thing is not to be had here. Any other error (a full
/// disk) says nothing of that.
fn is_refused(result: Result<(), Fault>) -> bool {
    matches!(result, Err(Fault { errno: Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL | Errno::NOSYS, .. }))
}

/// Whether an attribute is taken, and is there afterwards.
fn try_xattr(file: &NewFile, name: &[u8], value: &[u8]) -> bool {
    let none = Xattrs::default();
    let mut want = Xattrs::default();
    want.0.insert(name.into(), value.into());
    let set = file.set(&Settings { xattrs: Some((&none, &want)), ..Settings::default() });
    match set {
        Ok(()) => file.as_file().xattrs(XattrKinds::ALL).is_ok_and(|kept| kept.0.contains_key(name)),
        refused => !is_refused(refused),
    }
}

/// Gives the file to another user and back. A file system without owners refuses, or forgets.
fn try_owner(file: &NewFile, own: &Entry) -> bool {
    let (uid, gid) = (own.uid ^ 1, own.gid ^ 1);
    let given = file.set(&Settings { uid: Some(uid), gid: Some(gid), ..Settings::default() });
    let kept = file.as_file().entry().is_ok_and(|entry| (entry.uid, entry.gid) == (uid, gid));
    let _ = file.set(&Settings { uid: Some(own.uid), gid: Some(own.gid), ..Settings::default() });
    given.is_ok() && kept
}

/// The smallest step that explains what became of [`ODD`].
fn time_step(kept: Time) -> u64 {
    STEPS.into_iter().find(|step| ODD.is_within(kept, *step)).unwrap_or(STEPS[STEPS.len() - 1])
}

/// What is lacking, as one says it; empty where all is kept.
pub struct Lacks<'a> {
    pub wanted: &'a Keeps,
    pub kept: &'a Keeps,
}

impl Lacks<'_> {
    pub fn any(&self) -> bool {
        !self.to_string().is_empty()
    }
}

impl fmt::Display for Lacks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, kept } = self;
        let step = format!(
            "times finer than {}",
            crate::report::human_duration(std::time::Duration::from_nanos(kept.time_step))
        );
        let all = [
            (wanted.modes && !kept.modes, "permission bits"),
            (wanted.owner && !kept.owner, "owners"),
            (wanted.symlinks && !kept.symlinks, "symlinks"),
            (wanted.xattrs.user && !kept.xattrs.user, "user attributes"),
            (wanted.xattrs.acl && !kept.xattrs.acl, "ACLs"),
            (kept.time_step > 1, &step),
            (kept.folds_case, "upper and lower case"),
        ];
        let words: Vec<&str> = all.iter().filter(|(lacks, _)| *lacks).map(|(_, word)| *word).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Where;
    use crate::tree::Root;

    #[test]
    fn a_time_tells_the_step_in_which_it_was_kept() {
        let kept = |sec, nsec| time_step(Time { sec, nsec });
        assert_eq!(kept(1_000_000_001, 123_456_789), 1);
        assert_eq!(kept(1_000_000_001, 123_456_700), 100);
        assert_eq!(kept(1_000_000_001, 120_000_000), 10_000_000);
        assert_eq!(kept(1_000_000_001, 0), 1_000_000_000);
        assert_eq!(kept(1_000_000_000, 0), 2_000_000_000);
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root { path: dir.path().into(), side: Where::Replica };
        let (open, _) = root.open_replica().unwrap();
        let before = open.entry().unwrap().mtime;
        let kept = probe(&open, of_process(true)).unwrap();
        assert!(kept.modes && kept.symlinks && !kept.folds_case);
        assert_eq!(probe_unseen(&open, of_process(true)), kept);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(open.entry().unwrap().mtime, before);
    }
}
