//! The roots while the program runs: gone, back, replaced, made again.

use std::fs;
use std::time::{Duration, Instant};

use super::Daemon;
use crate::guard::Trust;
use crate::reconcile::Lost;
use crate::roots::{Home, Lock};
use crate::tree::{Fault, Pin};

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

/// The state of both roots.
pub(super) struct RootWatch {
    home: Home,
    lock: Option<Lock>,
    source: Option<Absence>,
    replica: Option<Absence>,
    checked: Instant,
}

impl RootWatch {
    pub fn new(home: Home, lock: Lock) -> Self {
        Self { home, lock: Some(lock), source: None, replica: None, checked: Instant::now() }
    }

    /// Whether a root is not there. Nothing is done until it is back.
    pub fn is_lost(&self) -> bool {
        self.source.is_some() || self.replica.is_some()
    }
}

impl Daemon<'_> {
    /// Looks at both roots, now and then.
    pub(super) fn check_roots(&mut self, now: Instant) {
        if now.duration_since(self.roots.checked) < CHECK {
            return;
        }
        self.roots.checked = now;
        let was_lost = self.roots.is_lost();
        let source = self.reconciler.roots.source.pin();
        let replica = self.reconciler.roots.replica.pin();
        self.check_source(source, now);
        self.check_replica(replica, now);
        if was_lost && !self.roots.is_lost() {
            self.next_sweep = now;
            self.tally.counted_no_more();
        }
    }

    fn check_source(&mut self, found: Result<Pin, Fault>, now: Instant) {
        let pinned = self.reconciler.roots.source_pin;
        match found {
            Ok(pin) if pin == pinned => {
                if self.roots.source.take().is_some() {
                    tracing::info!(op = "source", "the source is there again");
                }
            }
            Ok(pin) => {
                self.drop_work();
                if stands(self.roots.source.get_or_insert_default(), pin, now) {
                    self.roots.source = None;
                    self.reconciler.roots.source_pin = pin;
                    self.trust = Trust::Unproven;
                    tracing::warn!(
                        op = "adopted",
                        "another directory is the source now, at the same path: it is mirrored after a count"
                    );
                }
            }
            Err(fault) => {
                self.drop_work();
                let absence = self.roots.source.get_or_insert_default();
                absence.candidate = None;
                if !std::mem::replace(&mut absence.told, true) {
                    let path = self.reconciler.roots.source.path.display();
                    tracing::error!(
                        op = "source",
                        "{path} is not there ({}): nothing is deleted, mirroring goes on by itself when it is",
                        fault.reason()
                    );
                }
            }
        }
    }

    fn check_replica(&mut self, found: Result<Pin, Fault>, now: Instant) {
        let pinned = self.reconciler.roots.replica_pin;
        match found {
            Ok(pin) if pin == pinned => {
                if self.roots.replica.take().is_some() {
                    tracing::info!(op = "replica", "the replica is there again");
                }
            }
            Ok(pin) => {
                self.drop_work();
                if stands(self.roots.replica.get_or_insert_default(), pin, now) {
                    tracing::warn!(op = "adopted", "another directory is the replica now, at the same path");
                    self.adopt_replica(pin);
                }
            }
            Err(fault) => {
                self.drop_work();
                self.make_replica_again(fault);
            }
        }
    }

    /// The replica is gone: it is made again where it was deleted, and waited for where its
    /// disk is gone.
    fn make_replica_again(&mut self, fault: Fault) {
        let path = self.reconciler.roots.replica.path.clone();
        if fault.is_absence() && self.config.create && self.roots.home.may_create(&path) {
            let made = fs::create_dir_all(&path);
            if let (Ok(()), Ok(pin)) = (made, self.reconciler.roots.replica.pin()) {
                tracing::warn!(op = "replica", "the replica was deleted: it is made again and filled");
                return self.adopt_replica(pin);
            }
        }
        let absence = self.roots.replica.get_or_insert_default();
        absence.candidate = None;
        if !std::mem::replace(&mut absence.told, true) {
            tracing::error!(
                op = "replica",
                "{} is not there ({}): mirroring goes on by itself when it is",
                path.display(),
                fault.reason()
            );
        }
    }

    fn adopt_replica(&mut self, pin: Pin) {
        // The lock is named after the inode.
        self.roots.lock = None;
        match Lock::take(&pin, &self.reconciler.roots.replica.path) {
            Ok(lock) => self.roots.lock = Some(lock),
            Err(refusal) => {
                let absence = self.roots.replica.get_or_insert_default();
                if !std::mem::replace(&mut absence.told, true) {
                    tracing::error!(op = "replica", "{refusal}");
                }
                return;
            }
        }
        self.reconciler.roots.replica_pin = pin;
        self.trust = Trust::Unproven;
        self.tally.disturb();
        // The way back goes through "lost", so that a count and a sweep come at once.
        self.roots.replica = None;
        self.next_sweep = Instant::now();
        self.tally.counted_no_more();
    }

    /// A round or a sweep met a root that is not what it was.
    pub(super) fn lose(&mut self, lost: Lost) {
        self.drop_work();
        let absence = match lost {
            Lost::Source(_) | Lost::SourceReplaced => &mut self.roots.source,
            Lost::Replica(_) | Lost::ReplicaReplaced => &mut self.roots.replica,
        };
        absence.get_or_insert_default();
    }

    /// Nothing that was found is of use any more: a sweep finds it anew.
    fn drop_work(&mut self) {
        self.sweep = None;
        self.scans.clear();
        self.queue.clear();
        self.troubles.clear();
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
