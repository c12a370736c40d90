//! Who is let into a directory that stands on both sides.
//!
//! What its source gives to nobody any more is taken at once, before anything is put into it. What its source gives
//! besides is given only when all that the replica holds there is the source's, too: something may lie in it that is
//! yet to be removed, or that somebody has moved there so that it be opened.

use std::sync::atomic::Ordering;

use super::{Again, Round};
use crate::decide::Differs;
use crate::entry::{Entry, Kind, Side, XattrKinds, Xattrs};
use crate::path::{Name, RelPath};
use crate::queue::{Detector, Look};
use crate::tree::{Dir, ReplicaDir, Settings};

/// The rights of group and others.
const STRANGERS: u32 = 0o077;

/// The name of the ACL that says who is let in.
const ACL: &[u8] = b"system.posix_acl_access";

fn acl_differs(one: &Xattrs, other: &Xattrs) -> bool {
    one.0.get(ACL) != other.0.get(ACL)
}

impl Round<'_> {
    /// Takes from a directory of the replica the rights that the source's gives no more. Where it is another's there, or
    /// another group's, nobody but this process is left in until the closing phase.
    pub(super) fn narrow(&mut self, path: &RelPath, source: &Dir, replica: &ReplicaDir) {
        let keeps = &self.shared.keeps;
        let (Ok(wanted), Ok(now)) = (source.entry(), replica.entry()) else { return };
        if !keeps.modes {
            return;
        }
        let differs = Differs::between(&wanted, &now, keeps);
        // While deletions are held the source may be a wrong one: the replica stays as open as it is.
        let is_given =
            !self.deletions.are_held() && (differs.uid || differs.gid || self.acls_differ(source, replica));
        let allowed = 0o7700 | if is_given { 0 } else { wanted.mode };
        let uid = (is_given && differs.uid && now.uid != keeps.user).then_some(keeps.user);
        if now.mode & !allowed == 0 && uid.is_none() {
            return;
        }
        // Where this fails, so does the closing phase, and says why.
        if replica.set(&Settings { uid, mode: Some(now.mode & allowed), ..Settings::default() }).is_ok() {
            self.opened.entry(path.clone()).or_insert(now.mode);
            self.touch(path.clone(), None);
        }
    }

    fn acls_differ(&self, source: &Dir, replica: &Dir) -> bool {
        let kinds = XattrKinds { user: false, ..self.shared.keeps.xattrs };
        let acls = [source, replica].map(|dir| dir.xattrs(kinds).unwrap_or_default());
        acl_differs(&acls[0], &acls[1])
    }

    /// Whether what is to be set on a directory of the replica lets somebody in who is not let in now.
    pub(super) fn lets_in(
        &self,
        source: &Entry,
        now: &Entry,
        differs: Differs,
        xattrs: (&Xattrs, &Xattrs),
    ) -> bool {
        let keeps = &self.shared.keeps;
        let is_given = differs.uid || differs.gid || acl_differs(xattrs.0, xattrs.1);
        keeps.modes && (is_given || source.mode & !now.mode & 0o777 != 0)
    }

    /// Leaves a directory closed for now, since it holds what its source does not.
    pub(super) fn leave_closed(&mut self, path: &RelPath, look: &Look) {
        if self.deletions.are_held() {
            self.out.open.push(path.clone());
            return;
        }
        if look.detector == Detector::Watch {
            // What is too much there nobody may have told of.
            self.out.moved.push(path.clone());
        }
        self.out.again.push((path.clone(), look.clone(), Again::Uneven));
    }

    /// Whether all that others would come to see in a directory of the replica is in the source too, of the same kind and no
    /// more open. Looks below the two open directories, so that nobody can exchange what was seen for something else.
    pub(super) fn is_even(&self, dir: &RelPath, source: &Dir, replica: &Dir) -> bool {
        let mut waiting = vec![RelPath::root()];
        while let Some(at) = waiting.pop() {
            // What is not known is left as open as it is, and so is all that is mounted there.
            let Ok(theirs) = replica.open(&at) else { continue };
            let Ok(listing) = theirs.list() else { continue };
            let ours = match source.open(&at) {
                Err(fault) if fault.is_no_dir() => return false,
                Err(_) => continue,
                Ok(ours) => ours,
            };
            if self.shared.stop.load(Ordering::Relaxed)
                || !listing.reserved().all(|name| is_closed(&theirs.look(name)))
            {
                return false;
            }
            let filter = self.shared.filter.at(&dir.below(&at));
            for (name, _) in listing.iter() {
                let (ours, theirs) = (ours.look(name), theirs.look(name));
                let is_dir = [&ours, &theirs].map(|side| side.entry().map(Entry::is_dir));
                if filter.excludes_either(name, is_dir) {
                    continue;
                }
                match self.compare_rights(&ours, &theirs) {
                    Seen::Even if theirs.is_dir() => {
                        waiting.extend(Name::new(name).map(|name| at.join(&name)));
                    }
                    Seen::Even | Seen::Hidden => {}
                    Seen::Uneven => return false,
                }
            }
        }
        true
    }

    fn compare_rights(&self, source: &Side, replica: &Side) -> Seen {
        let (source, replica) = match (source, replica) {
            (Side::Unknown(_), _) | (_, Side::Unknown(_) | Side::Absent) => return Seen::Hidden,
            (Side::Absent, Side::Present(_)) => return Seen::Uneven,
            (Side::Present(source), Side::Present(replica)) => (source, replica),
        };
        let keeps = &self.shared.keeps;
        let differs = Differs::between(source, replica, keeps);
        let is_even = match (&source.kind, &replica.kind) {
            (Kind::Dir, Kind::Dir) if replica.uid == keeps.user && replica.mode & STRANGERS == 0 => {
                return Seen::Hidden;
            }
            (Kind::Dir, Kind::Dir) => {
                !differs.uid && !differs.gid && replica.mode & !source.mode & STRANGERS == 0
            }
            (Kind::File, Kind::File) => !differs.uid && !differs.gid && !differs.mode,
            (Kind::Symlink(_), Kind::Symlink(_)) => true,
            _ => false,
        };
        if is_even { Seen::Even } else { Seen::Uneven }
    }
}

/// What others would see of an entry.
enum Seen {
    /// Nothing, or nobody knows.
    Hidden,
    /// What they see in the source.
    Even,
    Uneven,
}

/// Whether what has a reserved name is for its owner alone: a file under way. A directory that was put aside is as open as
/// ever.
fn is_closed(side: &Side) -> bool {
    side.entry().is_none_or(|entry| !entry.is_dir() && entry.mode & STRANGERS == 0)
}
