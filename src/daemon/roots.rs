//! The roots while the program runs: gone, back, replaced, made again.

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

/// How often the roots are looked at while work is under way.
const CHECK: Duration = Duration::from_millis(250);

/// Who sees to it that both roots are what they were.
pub(super) trait RootKeeper<W> {
    /// Whether it is time to look at them again.
    fn is_due(&self, now: Instant) -> bool;

    /// Looks at one of them, and says what that means for the loop.
    fn inspect(&mut self, side: Side, writer: &mut W, trust: Trust, now: Instant) -> Vec<Event>;

    /// One could not be opened.
    fn miss(
        &mut self,
        side: Side,
        error: FsError,
        writer: &mut W,
        trust: Trust,
        now: Instant,
    ) -> Vec<Event>;

    /// Whether one of them is not there. Nothing is done until it is back.
    fn is_lost(&self) -> bool;

    /// What is wrong with those that are not there, in words.
    fn what_is_lost(&self) -> Option<String>;
}

/// What is known of one root's absence.
#[derive(Default)]
struct LostRoot {
    /// What is wrong, as it was said.
    what: String,
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

    /// What is known of the absence of one of them, which is noted if it was not.
    fn absence(&mut self, side: Side) -> &mut LostRoot {
        let absence = if side == Side::Source { &mut self.source } else { &mut self.replica };
        absence.get_or_insert_default()
    }

    /// What is at a root's path now. One that was lost is there again when it can be opened; a look
    /// is enough otherwise.
    fn find(&self, side: Side, roots: &Roots) -> Result<DirId, FsError> {
        match (side, &self.source, &self.replica) {
            (Side::Source, None, _) => roots.source.pin(),
            (Side::Source, Some(_), _) => roots.source.open_source().map(|(_, pin)| pin),
            (Side::Replica | Side::Backup, _, None) => roots.replica.pin(),
            (Side::Replica | Side::Backup, _, Some(_)) => {
                roots.replica.open_replica().map(|(_, pin)| pin)
            }
        }
    }

    fn check_source(&mut self, found: Result<DirId, FsError>, inspection: &mut Inspection<'_>) {
        match found {
            Ok(pin) if pin == inspection.writer.roots.source_pin => {
                self.source_mount.follow(&inspection.writer.roots.source);
                if self.source.take().is_some_and(|absence| absence.told) {
                    tracing::info!(op = "source", "the source is there again");
                }
            }
            Ok(pin) => {
                inspection.drop_work();
                let source = &inspection.writer.roots.source;
                let absence = self.source.get_or_insert_default();
                if self.source_mount.is_unmounted(source, &pin) {
                    let path = shown(&source.path);
                    self.say_missing(
                        Side::Source,
                        &format!("the disk of {path} is unmounted"),
                        "a disk is mounted there again",
                        true,
                    );
                } else if stands(absence, pin, inspection.now) {
                    self.adopt_source(pin, inspection);
                }
            }
            Err(error) => self.miss_source(error, inspection),
        }
    }

    fn adopt_source(&mut self, pin: DirId, inspection: &mut Inspection<'_>) {
        let roots = &inspection.writer.roots;
        // Of one that is lost, another directory may have the numbers by now.
        let replica = match self.replica {
            Some(_) => roots.replica.pin().ok(),
            None => roots.replica_pin,
        };
        let apart =
            ensure_apart((&roots.source, &pin), (&roots.replica, replica.as_ref()), &self.beside);
        match apart.and_then(|()| self.beside.log_in_source(&pin)) {
            Ok(log) => inspection.writer.filter.log = log,
            Err(refusal) => return self.refuse(Side::Source, &refusal),
        }
        let is_doubted = self.source_mount.adopt(&roots.source, pin, inspection.trust);
        self.source = None;
        inspection.writer.adopt_source(pin);
        inspection.events.push(Event::RootAdopted { side: Side::Source, is_doubted });
        tracing::warn!(
            op = "adopted",
            "another directory is the source now, at the same path: it is mirrored after a count"
        );
    }

    fn miss_source(&mut self, error: FsError, inspection: &mut Inspection<'_>) {
        inspection.drop_work();
        let path = shown(&inspection.writer.roots.source.path);
        self.say_missing(
            Side::Source,
            &format!("{path} cannot be opened ({})", error.reason()),
            "it can be opened",
            false,
        );
    }

    fn check_replica(&mut self, found: Result<DirId, FsError>, inspection: &mut Inspection<'_>) {
        match found {
            Ok(pin) if Some(pin) == inspection.writer.roots.replica_pin => {
                if self.replica.take().is_some_and(|absence| absence.told) {
                    tracing::info!(op = "replica", "the replica is there again");
                }
            }
            Ok(pin) => {
                inspection.drop_work();
                let replica = &inspection.writer.roots.replica;
                let absence = self.replica.get_or_insert_default();
                if let Err(why) = self.replica_mount.may_adopt(replica, &pin) {
                    absence.finds_stranger(why);
                    let what = format!("{} is not the replica: {why}", shown(&replica.path));
                    self.say_missing(Side::Replica, &what, why.end(), true);
                } else if stands(absence, pin, inspection.now) {
                    self.adopt_replica(
                        pin,
                        "another directory is the replica now, at the same path",
                        inspection,
                    );
                }
            }
            Err(error) => self.miss_replica(error, inspection),
        }
    }

    /// The replica is gone: it is made again where it was deleted, and waited for where its
    /// disk is gone.
    fn miss_replica(&mut self, error: FsError, inspection: &mut Inspection<'_>) {
        inspection.drop_work();
        let roots = &inspection.writer.roots;
        let path = roots.replica.path.clone();
        // Where the source is gone too, a directory above both may have been moved.
        let may_create = self.config.create && roots.source.pin() == Ok(roots.source_pin);
        if error.is_absence() && may_create && self.replica_mount.may_create(&path) {
            let made = fs::create_dir_all(&path);
            if let (Ok(()), Ok(pin)) = (made, inspection.writer.roots.replica.pin()) {
                let why = "the replica was deleted: it is made again and filled";
                return self.adopt_replica(pin, why, inspection);
            }
        }
        let path = shown(&path);
        self.say_missing(
            Side::Replica,
            &format!("{path} cannot be opened ({})", error.reason()),
            "it can be opened",
            false,
        );
    }

    /// Says once that a root is not there. `back`: when it is there again.
    fn say_missing(&mut self, side: Side, what: &str, back: &str, may_be_meant: bool) {
        let absence = self.absence(side);
        what.clone_into(&mut absence.what);
        if !absence.is_news() {
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
        self.absence(side).is_refused(&why);
        self.say_missing(side, &why, "that is otherwise", false);
    }

    fn adopt_replica(&mut self, pin: DirId, why: &str, inspection: &mut Inspection<'_>) {
        let roots = &inspection.writer.roots;
        let lost = self.source.as_ref().and_then(|_| roots.source.pin().ok());
        let source = lost.unwrap_or(roots.source_pin);
        let apart =
            ensure_apart((&roots.source, &source), (&roots.replica, Some(&pin)), &self.beside);
        let fit = apart.and_then(|()| refuse_followed(&roots.replica));
        // The lock is named after the inode.
        if let Err(refusal) = fit.and_then(|()| self.lock.pass_on(&pin, &roots.replica.path)) {
            return self.refuse(Side::Replica, &refusal);
        }
        tracing::warn!(op = "adopted", "{why}");
        self.replica = None;
        inspection.writer.adopt_replica(pin);
        self.replica_mount.adopt(&inspection.writer.roots.replica, pin);
        inspection.writer.capabilities =
            probe_replica(&mut inspection.writer.roots, unseen_seconds_of(self.config.task));
        self.source_mount.note(inspection.trust);
        let is_doubted = inspection.trust.is_doubted();
        inspection.events.push(Event::RootAdopted { side: Side::Replica, is_doubted });
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

/// A look at a root: by whom it is used, what is made of the source, and what comes of it.
struct Inspection<'a> {
    writer: &'a mut Reconciler,
    trust: Trust,
    now: Instant,
    events: Vec<Event>,
}

impl Inspection<'_> {
    /// Nothing that was found is of use any more.
    fn drop_work(&mut self) {
        self.events.push(Event::RootLost);
        self.writer.abandon();
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

/// Finds out what the replica keeps, and says what it does not; and in which ways the source is to
/// be looked at for that.
pub(super) fn probe_replica(roots: &mut Roots, unseen: i64) -> Capabilities {
    let tells_late = roots.replica.is_remote();
    let wanted = Capabilities { unseen, tells_late, ..of_process(roots.are_local()) };
    let probed = roots.replica.open_replica().and_then(|(dir, _)| probe(&dir, wanted.clone()));
    // Where nothing can be created, each action will say so.
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
