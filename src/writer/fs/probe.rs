//! Finds out, by trying, what the replica's file system can store. Done at the start, and whenever
//! another directory is adopted as the replica.
//!
//! What it cannot store is logged, and neither mirrored nor compared: each sweep would report it
//! again.

use std::fmt;
use std::sync::Arc;

use crate::fs::tree::{Dir, NewFile, ReplicaDir, Settings};
use crate::model::entry::{Entry, Kind, Time, XattrKinds, Xattrs};
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::path::Name;
use crate::plan::metadata::{Capabilities, Symlinks, TimestampRange};
use crate::writer::fs::copy::{Temp, TempNames};

/// A time that only steps of a nanosecond store unchanged: an odd second, and all nine digits.
const ODD: Time = Time { sec: 1_000_000_001, nsec: 123_456_789 };

/// The steps in which file systems store times, in nanoseconds. Among them are ext4 (1), NTFS
/// (100), exFAT (10 ms), ext3 (1 s) and FAT (2 s).
const STEPS: [u64; 6] = [1, 100, 1_000, 10_000_000, 1_000_000_000, 2_000_000_000];

/// A time that is later than all limits of file systems, in seconds since 1970; its negative is
/// earlier than all.
const FAR: i64 = 1 << 40;

/// The last seconds that some formats store. In this order: NTFS, four-digit years, XFS, ext4,
/// nanoseconds in 64 bits, FAT, seconds in 32 bits without a sign and with one.
const LAST_SECONDS: [i64; 8] = [
    910_692_730_085,
    253_402_300_799,
    16_299_260_424,
    15_032_385_535,
    9_223_372_036,
    4_354_819_198,
    4_294_967_295,
    2_147_483_647,
];

/// The first seconds. In this order: the year 1, NTFS, nanoseconds in 64 bits, seconds in 32 bits,
/// none before 1970, SFTP by sshfs (where 0 means now), FAT.
const FIRST_SECONDS: [i64; 7] =
    [-62_135_596_800, -11_644_473_600, -9_223_372_036, -2_147_483_648, 0, 1, 315_532_800];

/// The usual mtimes, in seconds since 1970: from the second day of 1970 to 2100. If the replica
/// cannot store all of them, its range is logged.
const USUAL: [i64; 2] = [86_400, 4_102_444_800];

/// An ACL that no mode can express, in the kernel's format: version 2, then tag, permissions and id
/// of owner, user 1, group, mask and others. See acl(5) and `linux/posix_acl_xattr.h`.
const ACL: [u8; 44] = [
    2, 0, 0, 0, //
    0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
    0x02, 0, 4, 0, 1, 0, 0, 0, //
    0x04, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, //
    0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
    0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
];

/// Returns what this process may set on a file system that can store everything. `local`: whether
/// this host alone keeps both trees, by one clock.
pub fn of_process(local: bool) -> Capabilities {
    use rustix::process::{Gid, getegid, geteuid, getgroups};
    use rustix::thread::{CapabilitySet, capabilities};
    let owner = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::CHOWN));
    let groups = getgroups().unwrap_or_default().into_iter().chain([getegid()]).map(Gid::as_raw);
    Capabilities {
        owner,
        user: geteuid().as_raw(),
        groups: groups.collect(),
        ctimes: local,
        ..Capabilities::all()
    }
}

/// Finds out what the file system of an open root can store. It makes entries under reserved names
/// for that, and removes them. `wanted`: what this process may set at best.
///
/// # Errors
/// If no file can be created there, or if it cannot be removed again.
pub fn probe(replica: &ReplicaDir, wanted: Capabilities) -> Result<Capabilities, FsError> {
    let before = replica.entry()?;
    if before.inode.append_only {
        // An entry that is made in it cannot be removed.
        return Ok(probe_unseen(replica, wanted));
    }
    let capabilities = try_names(replica, wanted);
    // The directory is as it was, except for its ctime.
    let _ = replica.set(&Settings { mtime: Some(before.mtime), ..Settings::default() });
    capabilities
}

/// Finds out the same with an unnamed file, so that the directory does not change. A file system
/// without such files is taken for a simple one, which stores names, kinds, contents and rough
/// times.
pub fn probe_unseen(replica: &Dir, wanted: Capabilities) -> Capabilities {
    match replica.create_unnamed() {
        Ok(file) => try_file(&file, wanted.clone()).unwrap_or(wanted),
        Err(error) if is_unsupported(error.kind) => Capabilities {
            owner: false,
            user: wanted.user,
            groups: Vec::new(),
            xattrs: XattrKinds::NONE,
            modes: false,
            symlinks: if replica.is_fat() { Symlinks::None } else { Symlinks::All },
            symlink_metadata: false,
            times: Some(TimestampRange { step: STEPS[STEPS.len() - 1], ..TimestampRange::ALL }),
            folds_case: false,
            ctimes: false,
            unseen: wanted.unseen,
            reports_late: false,
        },
        // No permission to write there, or a read-only file system: assume what a run would
        // compare.
        Err(_) => wanted,
    }
}

/// Returns whether the program that serves the replica's file system follows its symlinks (sshfs
/// with `follow_symlinks`): a deletion could then hit any place. Tried with a symlink to a file,
/// both under reserved names. One that leads nowhere could not be removed again.
pub fn follows_symlinks(replica: &ReplicaDir) -> bool {
    let names = Arc::new(TempNames::default());
    let [target, link] = [names.next(), names.next()];
    if replica.is_append_only_dir() || replica.create_file(&target).is_err() {
        return false;
    }
    let _target = Temp::adopt(replica, target.clone(), &names);
    // The symlink may exist even if the call fails.
    let _link = Temp::adopt(replica, link.clone(), &names);
    let _ = replica.make_symlink(&link, target.as_bytes());
    replica.observe(link.as_bytes()).entry().is_some_and(Entry::is_file)
}

fn try_names(replica: &ReplicaDir, wanted: Capabilities) -> Result<Capabilities, FsError> {
    let names = Arc::new(TempNames::default());
    let name = names.next();
    let file = replica.create_file(&name)?;
    let temp = Temp::adopt(replica, name.clone(), &names);
    let mut capabilities = try_file(&file, wanted)?;
    let upper = Name::new(&name.as_bytes().to_ascii_uppercase());
    capabilities.folds_case =
        upper.is_some_and(|upper| replica.observe(upper.as_bytes()).entry().is_some());
    drop(temp);
    // If the file could not be removed, the symlinks could not be either.
    names.may_make_in(replica)?;
    let links = ProbeLinks { replica, names: &names };
    capabilities.symlinks = links.which();
    capabilities.symlink_metadata =
        capabilities.symlinks == Symlinks::None || links.have_metadata(&capabilities);
    Ok(capabilities)
}

/// Symlinks under reserved names that lead nowhere.
struct ProbeLinks<'a> {
    replica: &'a ReplicaDir,
    names: &'a Arc<TempNames>,
}

impl ProbeLinks<'_> {
    /// Finds out which symlinks can be made, and read afterwards.
    fn which(&self) -> Symlinks {
        if !self.is_taken(b"") {
            Symlinks::None
        } else if self.is_taken(b"/") && self.is_taken(b"../") {
            Symlinks::All
        } else {
            Symlinks::Contained
        }
    }

    /// Returns whether a symlink whose target begins with `begin` can be made, and read afterwards.
    fn is_taken(&self, begin: &[u8]) -> bool {
        let target = self.target(begin);
        match self.make(&target) {
            Ok((name, _temp)) => {
                let standing = self.replica.observe(name.as_bytes());
                standing.entry().is_some_and(|entry| entry.kind == Kind::Symlink(target.into()))
            }
            Err(error) => !is_unsupported(error.kind),
        }
    }

    /// Returns whether a symlink can have an owner and an mtime of its own. A file system that sets
    /// those of the target fails here, since there is no target.
    fn have_metadata(&self, capabilities: &Capabilities) -> bool {
        let Ok((name, _temp)) = self.make(&self.target(b"")) else { return true };
        let Some(own) = self.replica.observe(name.as_bytes()).entry().cloned() else {
            return false;
        };
        let (uid, gid) = (own.uid ^ 1, own.gid ^ 1);
        let settings = Settings {
            uid: capabilities.owner.then_some(uid),
            gid: capabilities.owner.then_some(gid),
            mtime: capabilities.times.map(|_| ODD),
            ..Settings::default()
        };
        let is_set = |now: &Entry| {
            (!capabilities.owner || (now.uid, now.gid) == (uid, gid))
                && capabilities.times.is_none_or(|times| ODD.is_within(now.mtime, times.step))
        };
        self.replica.set_symlink(&name, &settings).is_ok()
            && self.replica.observe(name.as_bytes()).entry().is_some_and(is_set)
    }

    fn target(&self, begin: &[u8]) -> Vec<u8> {
        [begin, self.names.next().as_bytes()].concat()
    }

    fn make(&self, target: &[u8]) -> Result<(Name, Temp<'_>), FsError> {
        let name = self.names.next();
        self.replica.make_symlink(&name, target)?;
        Ok((name.clone(), Temp::adopt(self.replica, name, self.names)))
    }
}

/// Finds out what one file can show.
fn try_file(file: &NewFile, wanted: Capabilities) -> Result<Capabilities, FsError> {
    let entry = || file.as_file().entry();
    let mut capabilities = wanted;
    capabilities.user = entry()?.uid;
    capabilities.modes = [0o640, 0o600].iter().all(|mode| {
        let set = file.set(&Settings { mode: Some(*mode), ..Settings::default() });
        !is_refused(set) && entry().is_ok_and(|entry| entry.mode == *mode)
    });
    capabilities.times = try_times(file)?;
    let now = entry()?;
    // File systems without ctimes, or that lose them, have no modes either, or coarse times, or a
    // ctime that is the mtime.
    capabilities.ctimes &= capabilities.modes
        && capabilities.times.is_some_and(|times| times.step == 1)
        && now.inode.ctime != now.mtime;
    capabilities.xattrs.user &= try_xattr(file, b"user.twindir", b"x");
    capabilities.xattrs.acl &= try_xattr(file, b"system.posix_acl_access", &ACL);
    if capabilities.owner {
        capabilities.owner = try_owner(file, &entry()?);
    }
    if !capabilities.owner && !capabilities.modes {
        // Without modes there are no groups.
        capabilities.groups.clear();
    }
    Ok(capabilities)
}

/// Finds out which mtimes are stored; `None` if none can be set. The file has [`ODD`] afterwards.
fn try_times(file: &NewFile) -> Result<Option<TimestampRange>, FsError> {
    let set = |time| file.set(&Settings { mtime: Some(time), ..Settings::default() });
    let stored = |sec| {
        set(Time { sec, nsec: 0 }).ok()?;
        file.as_file().entry().ok().map(|entry| entry.mtime)
    };
    let latest =
        limit(FAR, &LAST_SECONDS, i64::max, stored).map_or(Time::LAST, |sec| Time { sec, nsec: 0 });
    let earliest = limit(-FAR, &FIRST_SECONDS, i64::min, stored)
        .map_or(Time::FIRST, |sec| Time { sec, nsec: 0 });
    match set(ODD) {
        Err(error) if is_unsupported(error.kind) => return Ok(None),
        other => other?,
    }
    Ok(Some(TimestampRange { step: time_step(file.as_file().entry()?.mtime), earliest, latest }))
}

/// Finds the last second, in the direction of `far`, that is stored unchanged; `None` if there is
/// no limit.
///
/// Some file systems store the nearest time instead of `far`: that is their limit. Others lose bits
/// of it. For those, the limits of the `usual` formats are tried too. `farther` picks one of two.
fn limit(
    far: i64,
    usual: &[i64],
    farther: fn(i64, i64) -> i64,
    stored: impl Fn(i64) -> Option<Time>,
) -> Option<i64> {
    // File systems that store times in steps may round.
    let is_stored = |sec| stored(sec).is_some_and(|time| (time.sec - sec).abs() < 2);
    let nearest = stored(far).map(|time| time.sec);
    if nearest == Some(far) {
        return None;
    }
    let tried = nearest.into_iter().chain(usual.iter().copied()).filter(|sec| is_stored(*sec));
    Some(tried.reduce(farther).unwrap_or(ODD.sec))
}

/// Returns whether the error means that the file system does not support this. Any other error,
/// such as a full disk, does not.
fn is_refused(result: Result<(), FsError>) -> bool {
    result.is_err_and(|error| is_unsupported(error.kind))
}

/// Returns whether a call that fails in this way, on a new file of our own, is one that the file
/// system does not support. Programs behind FUSE answer with any of these errors.
fn is_unsupported(kind: FsErrorKind) -> bool {
    matches!(
        kind,
        FsErrorKind::Unsupported
            | FsErrorKind::NotPermitted
            | FsErrorKind::Invalid
            | FsErrorKind::Io
    )
}

/// Returns whether an attribute can be set, and is there afterwards.
fn try_xattr(file: &NewFile, name: &[u8], value: &[u8]) -> bool {
    let none = Xattrs::default();
    let mut want = Xattrs::default();
    want.0.insert(name.into(), value.into());
    let set = file.set(&Settings { xattrs: Some((&none, &want)), ..Settings::default() });
    match set {
        Ok(()) => {
            file.as_file().xattrs(XattrKinds::ALL).is_ok_and(|kept| kept.0.contains_key(name))
        }
        refused => !is_refused(refused),
    }
}

/// Returns whether a file can be given to another user and group; gives it back afterwards. A file
/// system without owners returns an error, or keeps the old ones.
fn try_owner(file: &NewFile, own: &Entry) -> bool {
    let (uid, gid) = (own.uid ^ 1, own.gid ^ 1);
    let given = file.set(&Settings { uid: Some(uid), gid: Some(gid), ..Settings::default() });
    let kept = file.as_file().entry().is_ok_and(|entry| (entry.uid, entry.gid) == (uid, gid));
    let _ = file.set(&Settings { uid: Some(own.uid), gid: Some(own.gid), ..Settings::default() });
    given.is_ok() && kept
}

/// Returns the smallest step, in nanoseconds, in which [`ODD`] is stored as `kept`.
fn time_step(kept: Time) -> u64 {
    STEPS.into_iter().find(|step| ODD.is_within(kept, *step)).unwrap_or(STEPS[STEPS.len() - 1])
}

/// The facts that the replica cannot store, in words; empty if it can store all.
pub struct MissingCapabilities<'a> {
    pub wanted: &'a Capabilities,
    pub kept: &'a Capabilities,
}

impl MissingCapabilities<'_> {
    pub fn any(&self) -> bool {
        !self.to_string().is_empty()
    }
}

impl fmt::Display for MissingCapabilities<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, kept } = self;
        let times = kept.times.unwrap_or(TimestampRange::ALL);
        let step = format!(
            "times finer than {}",
            crate::model::human::human_duration(std::time::Duration::from_nanos(times.step))
        );
        let earliest = format!("times before {}", times.earliest.date());
        let latest = format!("times after {}", times.latest.date());
        let all = [
            (wanted.modes && !kept.modes, "permission bits"),
            (wanted.owner && !kept.owner, "owners"),
            (kept.symlinks == Symlinks::None, "symlinks"),
            (
                kept.symlinks == Symlinks::Contained,
                "symlinks that are absolute or have `..` in them",
            ),
            (!kept.symlink_metadata, "owners and times of symlinks"),
            (wanted.xattrs.user && !kept.xattrs.user, "user attributes"),
            (wanted.xattrs.acl && !kept.xattrs.acl, "ACLs"),
            (kept.times.is_none(), "times"),
            (times.step > 1, &step),
            (times.earliest.sec > USUAL[0], &earliest),
            (times.latest.sec < USUAL[1], &latest),
            (kept.folds_case, "upper and lower case"),
        ];
        let words: Vec<&str> =
            all.iter().filter(|(lacks, _)| *lacks).map(|(_, word)| *word).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::Root;
    use crate::model::error::Side;

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
    fn the_limits_of_a_file_system_are_found_whether_it_stores_the_nearest_time_or_forgets_bits() {
        let seconds = |sec| Some(Time { sec, nsec: 0 });
        let latest =
            |stored: &dyn Fn(i64) -> Option<Time>| limit(FAR, &LAST_SECONDS, i64::max, stored);
        let earliest =
            |stored: &dyn Fn(i64) -> Option<Time>| limit(-FAR, &FIRST_SECONDS, i64::min, stored);
        assert_eq!((latest(&seconds), earliest(&seconds)), (None, None));
        // ext4; 128-byte inodes; a limit of no known format.
        for (low, high) in [
            (-2_147_483_648, 15_032_385_535),
            (-2_147_483_648, 2_147_483_647),
            (-77, 3_000_000_001),
        ] {
            let nearest = |sec: i64| seconds(sec.clamp(low, high));
            assert_eq!((earliest(&nearest), latest(&nearest)), (Some(low), Some(high)));
        }
        // SFTP counts seconds in 32 bits, others nanoseconds in 64; FAT in steps of two seconds.
        let in_32_bits = |sec: i64| seconds(sec & 0xffff_ffff);
        assert_eq!((earliest(&in_32_bits), latest(&in_32_bits)), (Some(0), Some(4_294_967_295)));
        let in_nanos = |sec: i64| seconds(sec.wrapping_mul(1_000_000_000) / 1_000_000_000);
        assert_eq!(
            (earliest(&in_nanos), latest(&in_nanos)),
            (Some(-9_223_372_036), Some(9_223_372_036))
        );
        let fat = |sec: i64| seconds(sec.clamp(315_532_800, 4_354_819_198) & !1);
        assert_eq!((earliest(&fat), latest(&fat)), (Some(315_532_800), Some(4_354_819_198)));
        assert_eq!((earliest(&|_| None), latest(&|_| None)), (Some(ODD.sec), Some(ODD.sec)));
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path(), Side::Replica);
        let (open, _) = root.open_replica().unwrap();
        let before = open.entry().unwrap().mtime;
        let kept = probe(&open, of_process(true)).unwrap();
        assert!(
            kept.modes
                && kept.symlinks == Symlinks::All
                && kept.symlink_metadata
                && !kept.folds_case
        );
        assert_eq!(probe_unseen(&open, of_process(true)), kept);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(open.entry().unwrap().mtime, before);
    }
}
