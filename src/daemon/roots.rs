//! The roots while the program runs: gone, back, replaced, made again.

use std::fs;
use std::time::{Duration, Instant};

use super::{Daemon, probe_replica};
use crate::fault::Fault;
use crate::guard::Trust;
use crate::path::shown;
use crate::reconcile::Lost;
use crate::roots::{Lock, ReplicaHome, SourceHome};
use crate::tree::Pin;

/// How long another directory must have stood at a root's path before it is adopted: a mount
/// or a rename may be under way.
const STANDING: Duration = Duration::from_secs(2);

/// How often the roots are looked at while work is under way.
const CHECK: Duration = Duration::from_millis(250);

/// What is known of one root's absence.
#[derive(Default)]
struct Absence {
    /// Whether the user was told.
    told: bool,
    /// Another directory at the path, and since when.
    candidate: Option<(Pin, Instant)>,
}

impl Absence {
    /// Whether the user is to be told now; once.
    fn is_news(&mut self) -> bool {
        self.candidate = None;
        !std::mem::replace(&mut self.told, true)
    }
}

/// The state of both roots.
pub(super) struct RootWatch {
    source_home: SourceHome,
    replica_home: ReplicaHome,
    lock: Lock,
    source: Option<Absence>,
    replica: Option<Absence>,
    checked: Instant,
}

impl RootWatch {
    pub fn new(source_home: SourceHome, replica_home: ReplicaHome, lock: Lock) -> Self {
        Self { source_home, replica_home, lock, source: None, replica: None, checked: Instant::now() }
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
        let was_lost = self.roots.is_lost();
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
        if was_lost && !self.roots.is_lost() {
            self.next_sweep = now;
            self.tally.counted_no_more();
        }
    }

    fn check_source(&mut self, found: Result<Pin, Fault>, now: Instant) {
        match found {
            Ok(pin) if pin == self.reconciler.roots.source_pin => {
                if self.roots.source.take().is_some_and(|absence| absence.told) {
                    tracing::info!(op = "source", "the source is there again");
                }
            }
            Ok(pin) => {
                self.drop_work();
                let source = &self.reconciler.roots.source;
                let absence = self.roots.source.get_or_insert_default();
                if self.roots.source_home.is_unmounted(source) {
                    if absence.is_news() {
                        tracing::error!(
                            op = "source",
                            "the disk of {} is unmounted: nothing is deleted, mirroring goes on by itself when a disk is \
                             mounted there (if the directory at that path is the source now, restart twindir)",
                            shown(&source.path)
                        );
                    }
                } else if stands(absence, pin, now) {
                    self.roots.source_home = SourceHome::of(source);
                    self.roots.source = None;
                    self.reconciler.roots.source_pin = pin;
                    self.trust = Trust::Unproven;
                    self.tally.disturb();
                    tracing::warn!(
                        op = "adopted",
                        "another directory is the source now, at the same path: it is mirrored after a count"
                    );
                }
            }
            Err(fault) => self.miss_source(fault),
        }
    }

    fn miss_source(&mut self, fault: Fault) {
        self.drop_work();
        let path = shown(&self.reconciler.roots.source.path);
        if self.roots.source.get_or_insert_default().is_news() {
            tracing::error!(
                op = "source",
                "{path} cannot be opened ({}): nothing is deleted, mirroring goes on by itself when it can",
                fault.reason()
            );
        }
    }

    fn check_replica(&mut self, found: Result<Pin, Fault>, now: Instant) {
        match found {
            Ok(pin) if pin == self.reconciler.roots.replica_pin => {
                if self.roots.replica.take().is_some_and(|absence| absence.told) {
                    tracing::info!(op = "replica", "the replica is there again");
                }
            }
            Ok(pin) => {
                self.drop_work();
                let absence = self.roots.replica.get_or_insert_default();
                if !self.roots.replica_home.may_adopt(&self.reconciler.roots.replica, &pin) {
                    if absence.is_news() {
                        let path = shown(&self.reconciler.roots.replica.path);
                        tracing::error!(
                            op = "replica",
                            "the disk of {path} is gone: nothing is written to what is at that path now, \
                             mirroring goes on by itself when the disk is back"
                        );
                    }
                } else if stands(absence, pin, now) {
                    self.adopt_replica(pin, "another directory is the replica now, at the same path");
                }
            }
            Err(fault) => self.miss_replica(fault),
        }
    }

    /// The replica is gone: it is made again where it was deleted, and waited for where its
    /// disk is gone.
    fn miss_replica(&mut self, fault: Fault) {
        self.drop_work();
        let path = self.reconciler.roots.replica.path.clone();
        // Where the source is gone too, a directory above both may have been moved.
        let may_create = self.config.create && self.roots.source.is_none();
        if fault.is_absence() && may_create && self.roots.replica_home.may_create(&path) {
            let made = fs::create_dir_all(&path);
            if let (Ok(()), Ok(pin)) = (made, self.reconciler.roots.replica.pin()) {
                return self.adopt_replica(pin, "the replica was deleted: it is made again and filled");
            }
        }
        if self.roots.replica.get_or_insert_default().is_news() {
            tracing::error!(
                op = "replica",
                "{} cannot be opened ({}): mirroring goes on by itself when it can",
                shown(&path),
                fault.reason()
            );
        }
    }

    fn adopt_replica(&mut self, pin: Pin, why: &str) {
        // The lock is named after the inode.
        if let Err(refusal) = self.roots.lock.pass_on(&pin, &self.reconciler.roots.replica.path) {
            if self.roots.replica.get_or_insert_default().is_news() {
                tracing::error!(op = "replica", "{refusal}");
            }
            return;
        }
        tracing::warn!(op = "adopted", "{why}");
        self.roots.replica = None;
        self.reconciler.roots.replica_pin = pin;
        self.roots.replica_home.follow(&self.reconciler.roots.replica, pin);
        self.reconciler.keeps = probe_replica(&self.reconciler.roots);
        self.trust = Trust::Unproven;
        self.tally.disturb();
        self.tally.counted_no_more();
        self.next_sweep = Instant::now();
    }

    /// A round or a sweep met a root that is not what it was.
    pub(super) fn lose(&mut self, lost: Lost) {
        match lost {
            Lost::Source(fault) => self.miss_source(fault),
            Lost::Replica(fault) => self.miss_replica(fault),
            Lost::SourceReplaced | Lost::ReplicaReplaced => self.inspect_roots(Instant::now()),
        }
    }

    /// Nothing that was found is of use any more: a sweep finds it anew.
    fn drop_work(&mut self) {
        self.sweep = None;
        self.scan = None;
        self.scans.clear();
        self.uneven.clear();
        self.watching.stop();
        self.queue.clear();
        self.troubles.clear();
        self.refusal = None;
        self.reconciler.abandon();
    }
}

/// Whether the same other directory has stood at the path for long enough.
fn stands(absence: &mut Absence, pin: Pin, now: Instant) -> bool {
    match absence.candidate {
        Some((candidate, since)) if candidate == pin => now.duration_since(since) >= STANDING,
        _ => {
            absence.candidate = Some((pin, now));
            false
        }
    }
}
