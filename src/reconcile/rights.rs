//! Who is let into a directory that stands on both sides.
//!
//! What its source gives to nobody any more is taken at once, before anything is put into it. What its source gives
//! besides is given only to its twin: one that was made for it, or of which a walk has found that all it holds is the
//! source's, too. Another one may hold what is yet to be removed, or may have been moved there so that it be opened.

use super::{Again, Round};
use crate::decide::Differs;
use crate::entry::{Entry, XattrKinds, Xattrs};
use crate::path::RelPath;
use crate::queue::Look;
use crate::tree::{Dir, ReplicaDir, Settings};

/// The name of the ACL that says who is let in.
const ACL: &[u8] = b"system.posix_acl_access";

fn acl_differs(one: &Xattrs, other: &Xattrs) -> bool {
    one.0.get(ACL) != other.0.get(ACL)
}

impl Round<'_> {
    /// Takes from a directory of the replica the rights that the source's gives no more. Where it is another's there, another
    /// group's, or has another ACL, group and others are kept out until the closing phase, and its former owner too.
    ///
    /// `wanted`: what the source's is; its `source` cannot always be opened.
    pub(super) fn narrow(
        &mut self,
        path: &RelPath,
        wanted: Option<&Entry>,
        source: Option<&Dir>,
        replica: &ReplicaDir,
    ) {
        let keeps = &self.shared.keeps;
        let (true, Some(wanted), Ok(now)) = (keeps.modes, wanted, replica.entry()) else { return };
        if source.is_some() {
            self.see_whether_new(wanted, &now, replica);
        }
        let differs = Differs::between(wanted, &now, keeps);
        // While deletions are held the source may be a wrong one: the replica stays as open as it is.
        let is_given = !self.deletions.are_held()
            && (differs.uid
                || differs.gid
                || (!now.is_closed() && source.is_some_and(|source| self.acls_differ(source, replica))));
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

    /// One that holds nothing hides nothing.
    pub(super) fn see_whether_new(&self, source: &Entry, now: &Entry, replica: &Dir) {
        let twins = &self.shared.twins;
        if !twins.are(source, now) && replica.is_empty().unwrap_or(false) {
            twins.note(source, now);
        }
    }

    /// Whether what is to be set on a directory of the replica lets somebody in who is not let in now, and is not to be.
    pub(super) fn must_stay_closed(
        &self,
        source: &Entry,
        now: &Entry,
        differs: Differs,
        xattrs: (&Xattrs, &Xattrs),
    ) -> bool {
        let is_given = differs.uid || differs.gid || acl_differs(xattrs.0, xattrs.1);
        let lets_in = is_given || source.mode & !now.mode & 0o777 != 0;
        self.shared.keeps.modes && lets_in && !self.shared.twins.are(source, now)
    }

    /// Leaves a directory closed for now.
    pub(super) fn leave_closed(&mut self, path: &RelPath, look: &Look) {
        if self.deletions.are_held() {
            // The walk after the next count sees to it again.
            self.out.open.push(path.clone());
        } else {
            self.out.again.push((path.clone(), look.clone(), Again::Uneven));
        }
    }
}
