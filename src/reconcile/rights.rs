//! Who is let into a directory that stands on both sides.
//!
//! What its source gives to nobody any more is taken at once, before anything is put into it. What its source gives
//! besides is given when the directory itself is looked at, which a walk asks for after all that it has found in it; and
//! only where the directory is what its name says. That is one which nobody else could have moved there, or a twin: it was
//! made for the source's, or a walk has found that all it holds is in that, too.

use super::{Again, Round};
use crate::differs::Differs;
use crate::entry::{Entry, XattrKinds};
use crate::path::RelPath;
use crate::queue::Look;
use crate::reach::Movers;
use crate::tree::{Dir, ReplicaDir, Settings};

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
        let (keeps, twins) = (&self.shared.keeps, &self.shared.twins);
        let (true, Some(wanted), Ok(now)) = (keeps.modes, wanted, replica.entry()) else { return };
        if source.is_some() {
            twins.mixes(wanted, &now);
            self.see_whether_new(wanted, &now, replica);
        }
        let differs = Differs::between(wanted, &now, keeps);
        let is_given = differs.uid
            || differs.gid
            || (!now.is_closed() && source.is_some_and(|source| self.acls_differ(source, replica)));
        let allowed = 0o7700 | if is_given { 0 } else { wanted.mode };
        let uid = (is_given && differs.uid && now.uid != keeps.user).then_some(keeps.user);
        if now.mode & !allowed == 0 && uid.is_none() {
            return;
        }
        // Where this fails, so does the closing phase, and says why.
        if replica.set(&Settings { uid, mode: Some(now.mode & allowed), ..Settings::default() }).is_ok() {
            self.see_who_moved(&now, uid.unwrap_or(now.uid), now.mode & allowed);
            self.opened.entry(path.clone()).or_insert(now.mode);
            self.touch(path.clone(), None);
        }
    }

    /// A directory got this owner and this mode: remembers that others could move its entries before, where they cannot now.
    pub(super) fn see_who_moved(&self, before: &Entry, uid: u32, mode: u32) {
        let (twins, user) = (&self.shared.twins, self.shared.keeps.user);
        let movers = |dir: &Entry| Movers::within(dir, twins, user);
        if movers(before) != Movers::Nobody
            && movers(before) != movers(&Entry { mode, uid, ..before.clone() })
        {
            twins.meddled_with(before);
        }
    }

    fn acls_differ(&self, source: &Dir, replica: &Dir) -> bool {
        let kinds = XattrKinds { user: false, ..self.shared.keeps.xattrs };
        let acls = [source, replica].map(|dir| dir.xattrs(kinds).unwrap_or_default());
        acls[0].lets_in_others_than(&acls[1])
    }

    /// One that holds nothing hides nothing.
    pub(super) fn see_whether_new(&self, source: &Entry, now: &Entry, replica: &Dir) {
        let twins = &self.shared.twins;
        if !twins.are(source, now) && replica.is_empty().unwrap_or(false) {
            twins.note(source, now);
        }
    }

    /// Whether somebody may be let in: the directory is what its name says.
    pub(super) fn may_let_in(&self, path: &RelPath, source: &Entry, now: &Entry) -> bool {
        let (twins, user) = (&self.shared.twins, self.shared.keeps.user);
        let movers = || Movers::of(&self.replica, path, now, twins, user);
        // What is held is not even, and the source may be a wrong one.
        let may_hide = self.deletions.are_held();
        twins.are(source, now) || (!may_hide && movers().are_harmless(source, now))
    }

    /// Leaves a directory closed for now. `is_asked`: whether it was looked at for its own sake; else that is yet to come.
    pub(super) fn leave_closed(&mut self, path: &RelPath, look: &Look, is_asked: bool) {
        if self.deletions.are_held() {
            // The walk after the next count sees to it again.
            self.out.open.push(path.clone());
        } else {
            let again = if is_asked { Again::Uneven } else { Again::Unasked };
            self.out.again.push((path.clone(), look.clone(), again));
        }
    }
}
