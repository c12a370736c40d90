//! The roots while the program runs: lost, back, replaced, made again.

use std::fs;
use std::time::{Duration, Instant};

use super::core::Event;
use crate::daemon::startup::{
    ExtraPaths, Lock, NotSameDisk, Refusal, ReplicaMount, SourceMount, ensure_apart,
    refuse_followed,
};
use crate::fs::roots::Roots;
use crate::fs::tree::DirId;
use crate::fs::writeback::unseen_seconds_of;
use crate::model::config::{Config, Mode};
use crate::model::error::{FsError, Side};
use crate::model::path::shown;
use crate::plan::guard::Trust;
use crate::plan::metadata::Capabilities;
use crate::writer::Writer;
use crate::writer::fs::probe::{MissingCapabilities, of_process, probe};
use crate::writer::fs::round::Reconciler;

/// How long another directory must have stood at a root's path before it is adopted: a mount
/// or a rename may be under way.
const STANDING: Duration = Duration::from_secs(2);

/// The time between two checks of the roots while work is being done.
const CHECK: Duration = Duration::from_millis(250);

/// A keeper of both roots: it checks that they are still the same directories.
pub(super) trait RootKeeper<W> {
    /// Returns whether it is time to check them again.
    fn is_due(&self, now: Instant) -> bool;

    /// Checks one of them. Returns the events for the loop.
    fn inspect(&mut self, side: Side, writer: &mut W, trust: Trust, now: Instant) -> Vec<Event>;

    /// Handles a root that could not be opened. Returns the events for the loop.
    fn miss(
        &mut self,
        side: Side,
        error: FsError,
        writer: &mut W,
        trust: Trust,
        now: Instant,
    ) -> Vec<Event>;

    /// Returns whether a root is lost. Nothing is done until it is back.
    fn is_lost(&self) -> bool;

    /// Returns, in words, what is wrong with a lost root.
    fn what_is_lost(&self) -> Option<String>;
}

/// The state of a lost root.
#[derive(Default)]
struct LostRoot {
    /// What is wrong, as it was logged.
    what: String,
    /// Whether the loss was logged.
    told: bool,
    /// Why a disk at the replica's path is not taken for the replica, as it was logged.
    disk: Option<NotSameDisk>,
    /// Why the directory at the path was refused, as it was logged.
    refusal: Option<String>,
    /// Another directory at the path, and since when it has stood there.
    candidate: Option<(DirId, Instant)>,
}

impl LostRoot {
    /// Returns whether the loss is to be logged now. That is so once.
    fn should_log(&mut self) -> bool {
        self.candidate = None;
        !std::mem::replace(&mut self.told, true)
    }

    /// Notes why the directory at the path is refused. Each reason is logged.
    fn is_refused(&mut self, why: &str) {
        if self.refusal.as_deref() != Some(why) {
            self.refusal = Some(why.to_owned());
            self.told = false;
        }
    }

    /// Notes why the directory at the replica's path is not taken for the replica. A disk is logged
    /// even if the loss was logged before.
    fn note_wrong_disk(&mut self, why: NotSameDisk) {
        if why.is_disk() && self.disk.replace(why) != Some(why) {
            self.told = false;
        }
    }
}

/// The keeper of two roots on file systems, with the state of both.
pub(super) struct RootWatch<'a> {
    config: &'a Config,
    source_mount: SourceMount,
    replica_mount: ReplicaMount,
    lock: Lock,
    beside: ExtraPaths,
    source: Option<LostRoot>,
    replica: Option<LostRoot>,
    checked: Instant,
}

impl<'a> RootWatch<'a> {
    pub fn new(
        config: &'a Config,
        source_mount: SourceMount,
        replica_mount: ReplicaMount,
        lock: Lock,
        beside: ExtraPaths,
    ) -> Self {
        Self {
            config,
            source_mount,
            replica_mount,
            lock,
            beside,
            source: None,
            replica: None,
            checked: Instant::now(),
        }
    }

    /// Returns the state of a lost root. A root that was not lost is one now.
    fn absence(&mut self, side: Side) -> &mut LostRoot {
        let absence = if side == Side::Source { &mut self.source } else { &mut self.replica };
        absence.get_or_insert_default()
    }

    /// Finds out which directory is at a root's path now. A lost root is back only when it can be
    /// opened; otherwise its identity is enough.
    fn find(&self, side: Side, roots: &Roots) -> Result<DirId, FsError> {
        match (side, &self.source, &self.replica) {
            (Side::Source, None, _) => roots.source.id(),
            (Side::Source, Some(_), _) => roots.source.open_source().map(|(_, id)| id),
            (Side::Replica | Side::Backup, _, None) => roots.replica.id(),
            (Side::Replica | Side::Backup, _, Some(_)) => {
                roots.replica.open_replica().map(|(_, id)| id)
            }
        }
    }

    fn check_source(&mut self, found: Result<DirId, FsError>, inspection: &mut Inspection<'_>) {
        match found {
            Ok(id) if id == inspection.writer.roots.source_id => {
                self.source_mount.follow(&inspection.writer.roots.source);
                if self.source.take().is_some_and(|absence| absence.told) {
                    tracing::info!(op = "source", "the source is there again");
                }
            }
            Ok(id) => {
                inspection.drop_work();
                let source = &inspection.writer.roots.source;
                let absence = self.source.get_or_insert_default();
                if self.source_mount.is_unmounted(source, &id) {
                    let path = shown(&source.path);
                    self.log_missing(
                        Side::Source,
                        &format!("the disk of {path} is unmounted"),
                        "a disk is mounted there again",
                        true,
                    );
                } else if stands(absence, id, inspection.now) {
                    self.adopt_source(id, inspection);
                }
            }
            Err(error) => self.miss_source(error, inspection),
        }
    }

    fn adopt_source(&mut self, id: DirId, inspection: &mut Inspection<'_>) {
        let roots = &inspection.writer.roots;
        // If the replica is lost, another directory may have its numbers by now.
        let replica = match self.replica {
            Some(_) => roots.replica.id().ok(),
            None => roots.replica_id,
        };
        let apart =
            ensure_apart((&roots.source, &id), (&roots.replica, replica.as_ref()), &self.beside);
        match apart.and_then(|()| self.beside.log_in_source(&id)) {
            Ok(log) => inspection.writer.filter.log = log,
            Err(refusal) => return self.refuse(Side::Source, &refusal),
        }
        let must_be_complete = self.source_mount.adopt(&roots.source, id, inspection.trust);
        self.source = None;
        inspection.writer.adopt_source(id);
        inspection.events.push(Event::RootAdopted { side: Side::Source, must_be_complete });
        tracing::warn!(
            op = "adopted",
            "another directory is the source now, at the same path: it is mirrored after a count"
        );
    }

    fn miss_source(&mut self, error: FsError, inspection: &mut Inspection<'_>) {
        inspection.drop_work();
        let path = shown(&inspection.writer.roots.source.path);
        self.log_missing(
            Side::Source,
            &format!("{path} cannot be opened ({})", error.reason()),
            "it can be opened",
            false,
        );
    }

    fn check_replica(&mut self, found: Result<DirId, FsError>, inspection: &mut Inspection<'_>) {
        match found {
            Ok(id) if Some(id) == inspection.writer.roots.replica_id => {
                if self.replica.take().is_some_and(|absence| absence.told) {
                    tracing::info!(op = "replica", "the replica is there again");
                }
            }
            Ok(id) => {
                inspection.drop_work();
                let replica = &inspection.writer.roots.replica;
                let absence = self.replica.get_or_insert_default();
                if let Err(why) = self.replica_mount.check_adopt(replica, &id) {
                    absence.note_wrong_disk(why);
                    let what = format!("{} is not the replica: {why}", shown(&replica.path));
                    self.log_missing(Side::Replica, &what, why.end(), true);
                } else if stands(absence, id, inspection.now) {
                    self.adopt_replica(
                        id,
                        "another directory is the replica now, at the same path",
                        inspection,
                    );
                }
            }
            Err(error) => self.miss_replica(error, inspection),
        }
    }

    /// Handles a missing replica. If it was deleted, it is made again. If its disk is missing, it
    /// is waited for.
    fn miss_replica(&mut self, error: FsError, inspection: &mut Inspection<'_>) {
        inspection.drop_work();
        let roots = &inspection.writer.roots;
        let path = roots.replica.path.clone();
        // If the source is missing too, a directory above both may have been moved.
        let may_create = self.config.create && roots.source.id() == Ok(roots.source_id);
        if error.is_absence() && may_create && self.replica_mount.may_create(&path) {
            let made = fs::create_dir_all(&path);
            if let (Ok(()), Ok(id)) = (made, inspection.writer.roots.replica.id()) {
                let why = "the replica was deleted: it is made again and filled";
                return self.adopt_replica(id, why, inspection);
            }
        }
        let path = shown(&path);
        self.log_missing(
            Side::Replica,
            &format!("{path} cannot be opened ({})", error.reason()),
            "it can be opened",
            false,
        );
    }

    /// Logs once that a root is lost. `back`: when mirroring continues. `may_be_meant`: whether the
    /// user may mean the directory that is there now.
    fn log_missing(&mut self, side: Side, what: &str, back: &str, may_be_meant: bool) {
        let absence = self.absence(side);
        what.clone_into(&mut absence.what);
        if !absence.should_log() {
            return;
        }
        let then = if self.config.mode == Mode::Once {
            "this run ends, and nothing more is done".to_owned()
        } else {
            let nothing = if side == Side::Source { "deleted" } else { "written" };
            format!("nothing is {nothing}, and mirroring resumes by itself when {back}")
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
        self.absence(side).is_refused(&why);
        self.log_missing(side, &why, "that is otherwise", false);
    }

    fn adopt_replica(&mut self, id: DirId, why: &str, inspection: &mut Inspection<'_>) {
        let roots = &inspection.writer.roots;
        let lost = self.source.as_ref().and_then(|_| roots.source.id().ok());
        let source = lost.unwrap_or(roots.source_id);
        let apart =
            ensure_apart((&roots.source, &source), (&roots.replica, Some(&id)), &self.beside);
        let fit = apart.and_then(|()| refuse_followed(&roots.replica));
        // The lock is named after the inode.
        if let Err(refusal) = fit.and_then(|()| self.lock.pass_on(&id, &roots.replica.path)) {
            return self.refuse(Side::Replica, &refusal);
        }
        tracing::warn!(op = "adopted", "{why}");
        self.replica = None;
        inspection.writer.adopt_replica(id);
        self.replica_mount.adopt(&inspection.writer.roots.replica, id);
        inspection.writer.capabilities =
            probe_replica(&mut inspection.writer.roots, unseen_seconds_of(self.config.task));
        self.source_mount.note(inspection.trust);
        let must_be_complete = inspection.trust.must_be_complete();
        inspection.events.push(Event::RootAdopted { side: Side::Replica, must_be_complete });
    }
}

impl RootKeeper<Reconciler> for RootWatch<'_> {
    fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.checked) >= CHECK
    }

    fn inspect(
        &mut self,
        side: Side,
        writer: &mut Reconciler,
        trust: Trust,
        now: Instant,
    ) -> Vec<Event> {
        self.checked = now;
        let found = self.find(side, &writer.roots);
        let mut inspection = Inspection { writer, trust, now, events: Vec::new() };
        match side {
            Side::Source => self.check_source(found, &mut inspection),
            Side::Replica | Side::Backup => self.check_replica(found, &mut inspection),
        }
        inspection.events
    }

    fn miss(
        &mut self,
        side: Side,
        error: FsError,
        writer: &mut Reconciler,
        trust: Trust,
        now: Instant,
    ) -> Vec<Event> {
        let mut inspection = Inspection { writer, trust, now, events: Vec::new() };
        match side {
            Side::Source => self.miss_source(error, &mut inspection),
            Side::Replica | Side::Backup => self.miss_replica(error, &mut inspection),
        }
        inspection.events
    }

    fn is_lost(&self) -> bool {
        self.source.is_some() || self.replica.is_some()
    }

    fn what_is_lost(&self) -> Option<String> {
        let lost = self.source.as_ref().or(self.replica.as_ref())?;
        Some(lost.what.clone()).filter(|what| !what.is_empty())
    }
}

/// A check of a root: its writer, the guard's trust in the source, and the events that come of it.
struct Inspection<'a> {
    writer: &'a mut Reconciler,
    trust: Trust,
    now: Instant,
    events: Vec<Event>,
}

impl Inspection<'_> {
    /// Drops all work: nothing that was found is valid any more.
    fn drop_work(&mut self) {
        self.events.push(Event::RootLost);
        self.writer.abandon();
    }
}

/// Returns whether the same other directory has stood at the path for [`STANDING`].
fn stands(absence: &mut LostRoot, id: DirId, now: Instant) -> bool {
    match absence.candidate {
        Some((candidate, since)) if candidate == id => now.duration_since(since) >= STANDING,
        _ => {
            absence.candidate = Some((id, now));
            false
        }
    }
}

/// Finds out what the replica can store, and logs what it cannot. Then sets how the source has to
/// be read.
pub(super) fn probe_replica(roots: &mut Roots, unseen: i64) -> Capabilities {
    let reports_late = roots.replica.is_remote();
    let wanted = Capabilities { unseen, reports_late, ..of_process(roots.are_local()) };
    let probed = roots.replica.open_replica().and_then(|(dir, _)| probe(&dir, wanted.clone()));
    // If nothing can be created there, each action will report that.
    let kept = probed.unwrap_or_else(|_| Capabilities {
        symlink_metadata: roots.replica.foreign_file_system().is_none(),
        ..wanted.clone()
    });
    let lacks = MissingCapabilities { wanted: &wanted, kept: &kept };
    if lacks.any() {
        tracing::warn!(
            op = "replica",
            "its file system does not keep: {lacks}. They are not mirrored, and compared as kept"
        );
    }
    roots.find_quirks(&kept);
    kept
}
