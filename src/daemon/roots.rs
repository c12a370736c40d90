//! The roots while the program runs: gone, back, replaced, made again.

use std::fs;
use std::time::{Duration, Instant};

use super::core::Event;
use super::{Daemon, probe_replica};
use crate::daemon::startup::{
    ExtraPaths, Lock, NotSameDisk, Refusal, ReplicaMount, SourceMount, ensure_apart,
    refuse_followed,
};
use crate::fs::roots::Lost;
use crate::fs::tree::DirId;
use crate::fs::writeback::unseen_seconds_of;
use crate::model::config::Mode;
use crate::model::error::{FsError, Side};
use crate::model::path::shown;

/// How long another directory must have stood at a root's path before it is adopted: a mount
/// or a rename may be under way.
const STANDING: Duration = Duration::from_secs(2);

/// How often the roots are looked at while work is under way.
const CHECK: Duration = Duration::from_millis(250);

/// What is known of one root's absence.
#[derive(Default)]
struct LostRoot {
    /// Whether the user was told.
    told: bool,
    /// The disk at the replica's path that is not taken for it, and was told of.
    disk: Option<NotSameDisk>,
    /// Why what stands at the path was refused, as it was told.
    refusal: Option<String>,
    /// Another directory at the path, and since when.
    candidate: Option<(DirId, Instant)>,
}

impl LostRoot {
    /// Whether the user is to be told now; once.
    fn is_news(&mut self) -> bool {
        self.candidate = None;
        !std::mem::replace(&mut self.told, true)
    }

    /// Notes why what stands at the path is refused: each reason is news.
    fn is_refused(&mut self, why: &str) {
        if self.refusal.as_deref() != Some(why) {
            self.refusal = Some(why.to_owned());
            self.told = false;
        }
    }

    /// Notes why what stands at the replica's path is not taken for it. A disk is news also after
    /// its absence was told.
    fn finds_stranger(&mut self, why: NotSameDisk) {
        if why.is_disk() && self.disk.replace(why) != Some(why) {
            self.told = false;
        }
    }
}

/// The state of both roots.
pub(super) struct RootWatch {
    source_mount: SourceMount,
    replica_mount: ReplicaMount,
    lock: Lock,
    pub(super) beside: ExtraPaths,
    source: Option<LostRoot>,
    replica: Option<LostRoot>,
    checked: Instant,
}

impl RootWatch {
    pub fn new(
        source_mount: SourceMount,
        replica_mount: ReplicaMount,
        lock: Lock,
        beside: ExtraPaths,
    ) -> Self {
        Self {
            source_mount,
            replica_mount,
            lock,
            beside,
            source: None,
            replica: None,
            checked: Instant::now(),
        }
    }

    /// What is known of the absence of one of them, which is noted if it was not.
    fn absence(&mut self, side: Side) -> &mut LostRoot {
        let absence = if side == Side::Source { &mut self.source } else { &mut self.replica };
        absence.get_or_insert_default()
    }

    /// Whether a root is not there. Nothing is done until it is back.
    pub fn is_lost(&self) -> bool {
        self.source.is_some() || self.replica.is_some()
    }
}

impl Daemon<'_> {
    /// Looks at both roots, now and then.
    pub(super) fn check_roots(&mut self, now: Instant) {
        if now.duration_since(self.roots.checked) >= CHECK {
            self.inspect_roots(now);
        }
    }

    pub(super) fn inspect_roots(&mut self, now: Instant) {
        self.roots.checked = now;
        // One that was lost is there again when it can be opened; a look is enough otherwise.
        let roots = &self.reconciler.roots;
        let source = match self.roots.source {
            Some(_) => roots.source.open_source().map(|(_, pin)| pin),
            None => roots.source.pin(),
        };
        let replica = match self.roots.replica {
            Some(_) => roots.replica.open_replica().map(|(_, pin)| pin),
            None => roots.replica.pin(),
        };
        self.check_source(source, now);
        self.check_replica(replica, now);
        self.note_if_back();
    }

    /// Goes on where both roots stand again.
    fn note_if_back(&mut self) {
        if self.core.is_lost() && !self.roots.is_lost() {
            self.step(Event::RootsBack);
        }
    }

    fn check_source(&mut self, found: Result<DirId, FsError>, now: Instant) {
        match found {
            Ok(pin) if pin == self.reconciler.roots.source_pin => {
                self.roots.source_mount.follow(&self.reconciler.roots.source);
                if self.roots.source.take().is_some_and(|absence| absence.told) {
                    tracing::info!(op = "source", "the source is there again");
                }
            }
            Ok(pin) => {
                self.drop_work();
                let source = &self.reconciler.roots.source;
                let absence = self.roots.source.get_or_insert_default();
                if self.roots.source_mount.is_unmounted(source, &pin) {
                    let path = shown(&source.path);
                    self.miss(
                        Side::Source,
                        &format!("the disk of {path} is unmounted"),
                        "a disk is mounted there again",
                        true,
                    );
                } else if stands(absence, pin, now) {
                    self.adopt_source(pin);
                }
            }
            Err(error) => self.miss_source(error),
        }
    }

    fn adopt_source(&mut self, pin: DirId) {
        let roots = &self.reconciler.roots;
        // Of one that is lost, another directory may have the numbers by now.
        let replica = match self.roots.replica {
            Some(_) => roots.replica.pin().ok(),
            None => roots.replica_pin,
        };
        let apart = ensure_apart(
            (&roots.source, &pin),
            (&roots.replica, replica.as_ref()),
            &self.roots.beside,
        );
        match apart.and_then(|()| self.roots.beside.log_in_source(&pin)) {
            Ok(log) => self.reconciler.filter.log = log,
            Err(refusal) => return self.refuse(Side::Source, &refusal),
        }
        let is_doubted = self.roots.source_mount.adopt(&roots.source, pin, self.core.trust());
        self.roots.source = None;
        self.reconciler.adopt_source(pin);
        self.step(Event::RootAdopted { side: Side::Source, is_doubted });
        tracing::warn!(
            op = "adopted",
            "another directory is the source now, at the same path: it is mirrored after a count"
        );
    }

    fn miss_source(&mut self, error: FsError) {
        self.drop_work();
        let path = shown(&self.reconciler.roots.source.path);
        self.miss(
            Side::Source,
            &format!("{path} cannot be opened ({})", error.reason()),
            "it can be opened",
            false,
        );
    }

    fn check_replica(&mut self, found: Result<DirId, FsError>, now: Instant) {
        match found {
            Ok(pin) if Some(pin) == self.reconciler.roots.replica_pin => {
                if self.roots.replica.take().is_some_and(|absence| absence.told) {
                    tracing::info!(op = "replica", "the replica is there again");
                }
            }
            Ok(pin) => {
                self.drop_work();
                let replica = &self.reconciler.roots.replica;
                let absence = self.roots.replica.get_or_insert_default();
                if let Err(why) = self.roots.replica_mount.may_adopt(replica, &pin) {
                    absence.finds_stranger(why);
                    let what = format!("{} is not the replica: {why}", shown(&replica.path));
                    self.miss(Side::Replica, &what, why.end(), true);
                } else if stands(absence, pin, now) {
                    self.adopt_replica(
                        pin,
                        "another directory is the replica now, at the same path",
                    );
                }
            }
            Err(error) => self.miss_replica(error),
        }
    }

    /// The replica is gone: it is made again where it was deleted, and waited for where its
    /// disk is gone.
    fn miss_replica(&mut self, error: FsError) {
        self.drop_work();
        let roots = &self.reconciler.roots;
        let path = roots.replica.path.clone();
        // Where the source is gone too, a directory above both may have been moved.
        let may_create = self.config.create && roots.source.pin() == Ok(roots.source_pin);
        if error.is_absence() && may_create && self.roots.replica_mount.may_create(&path) {
            let made = fs::create_dir_all(&path);
            if let (Ok(()), Ok(pin)) = (made, self.reconciler.roots.replica.pin()) {
                let why = "the replica was deleted: it is made again and filled";
                return self.adopt_replica(pin, why);
            }
        }
        let path = shown(&path);
        self.miss(
            Side::Replica,
            &format!("{path} cannot be opened ({})", error.reason()),
            "it can be opened",
            false,
        );
    }

    /// Says once that a root is not there. `back`: when it is there again.
    fn miss(&mut self, side: Side, what: &str, back: &str, may_be_meant: bool) {
        if !self.roots.absence(side).is_news() {
            return;
        }
        let then = if self.config.mode == Mode::Once {
            "this run ends, and nothing more is done".to_owned()
        } else {
            let nothing = if side == Side::Source { "deleted" } else { "written" };
            format!("nothing is {nothing}, and mirroring goes on by itself when {back}")
        };
        let meant = if may_be_meant {
            ". If what is at that path now is meant, restart twindir"
        } else {
            ""
        };
        tracing::error!(op = side.as_str(), "{what}: {then}{meant}");
    }

    fn refuse(&mut self, side: Side, refusal: &Refusal) {
        let why = refusal.to_string();
        self.roots.absence(side).is_refused(&why);
        self.miss(side, &why, "that is otherwise", false);
    }

    fn adopt_replica(&mut self, pin: DirId, why: &str) {
        let roots = &self.reconciler.roots;
        let lost = self.roots.source.as_ref().and_then(|_| roots.source.pin().ok());
        let source = lost.unwrap_or(roots.source_pin);
        let apart = ensure_apart(
            (&roots.source, &source),
            (&roots.replica, Some(&pin)),
            &self.roots.beside,
        );
        let fit = apart.and_then(|()| refuse_followed(&roots.replica));
        // The lock is named after the inode.
        if let Err(refusal) = fit.and_then(|()| self.roots.lock.pass_on(&pin, &roots.replica.path))
        {
            return self.refuse(Side::Replica, &refusal);
        }
        tracing::warn!(op = "adopted", "{why}");
        self.roots.replica = None;
        self.reconciler.adopt_replica(pin);
        self.roots.replica_mount.adopt(&self.reconciler.roots.replica, pin);
        self.reconciler.capabilities =
            probe_replica(&mut self.reconciler.roots, unseen_seconds_of(self.config.task));
        let trust = self.core.trust();
        self.roots.source_mount.note(trust);
        let is_doubted = trust.is_doubted();
        self.step(Event::RootAdopted { side: Side::Replica, is_doubted });
    }

    /// A round or a sweep met a root that is not what it was.
    pub(super) fn lose(&mut self, lost: Lost) {
        match lost {
            Lost::Source(error) => self.miss_source(error),
            Lost::Replica(error) => self.miss_replica(error),
            Lost::SourceReplaced | Lost::ReplicaReplaced => {
                // It may be back already. What was to be looked at is lost all the same.
                self.drop_work();
                self.inspect_roots(Instant::now());
            }
        }
        // A replica that was deleted is made again at once.
        self.note_if_back();
    }

    /// Nothing that was found is of use any more.
    fn drop_work(&mut self) {
        self.step(Event::RootLost);
        self.reconciler.abandon();
    }
}

/// Whether the same other directory has stood at the path for long enough.
fn stands(absence: &mut LostRoot, pin: DirId, now: Instant) -> bool {
    match absence.candidate {
        Some((candidate, since)) if candidate == pin => now.duration_since(since) >= STANDING,
        _ => {
            absence.candidate = Some((pin, now));
            false
        }
    }
}
