//! The `observe` phase: finds out what stands at each name on both sides.

use std::time::Duration;

use super::open_dirs::DirPair;
use super::{Observation, Round, RoundOutput, TASK};
use crate::fs::clock;
use crate::fs::parallel;
use crate::fs::tree::Dir;
use crate::fs::view::Trees;
use crate::model::check::{Check, Depth, Detector};
use crate::model::entry::{Entry, Kind, Observed};
use crate::model::path::{Name, RelPath, fold_case};
use crate::plan::hard_links::Linked;
use crate::report::{Cause, Notice, Problem};

/// For how long a temporary name in the source must be unchanged before it is reported: another
/// twindir may be writing there.
const PASSING: Duration = Duration::from_secs(60);

/// By how much a ctime may be older than the change that has set it: a tick of the kernel's clock.
/// See `inode_set_ctime_current` in the kernel's source.
const TICK: Duration = Duration::from_millis(20);

impl Round<'_> {
    /// Observes all names of the round on both sides, in parallel.
    pub(super) fn observe(&mut self) {
        let mut dir_pairs = std::mem::take(&mut self.dir_pairs);
        let mut tasks = Vec::new();
        for (rel, dir_pair) in &mut dir_pairs {
            let mut observations = std::mem::take(&mut dir_pair.observations);
            while !observations.is_empty() {
                let rest = observations.split_off(observations.len().min(TASK));
                tasks.push((rel.clone(), &*dir_pair, std::mem::replace(&mut observations, rest)));
            }
        }
        let this = &*self;
        let (results, _) =
            parallel::run(self.shared.threads, tasks, None, |(rel, dir_pair, observations)| {
                let mut out = RoundOutput::default();
                let seen: Vec<_> = observations
                    .into_iter()
                    .filter_map(|s| this.observe_name(&rel, dir_pair, s, &mut out))
                    .collect();
                (rel, seen, out)
            });
        for (rel, seen, out) in results {
            self.out.absorb(out);
            if let Some(dir_pair) = dir_pairs.get_mut(&rel) {
                dir_pair.observations.extend(seen);
            }
        }
        self.dir_pairs = dir_pairs;
    }

    /// Observes one name; `None` if it is to be left alone.
    fn observe_name(
        &self,
        rel: &RelPath,
        dir_pair: &DirPair<'_>,
        mut observation: Observation,
        out: &mut RoundOutput,
    ) -> Option<Observation> {
        let name = observation.name.as_bytes();
        if observation.name.is_reserved() {
            if self.shared.is_in_use(&observation.name) {
                return None;
            }
            if let Some(replica) =
                dir_pair.replica.as_ref().filter(|_| self.shared.names.have_left(&observation.name))
            {
                // It is known to lie there. Try again to remove it; a failure is reported
                // elsewhere.
                let _ = self.shared.names.may_make_in(replica);
                return None;
            }
            if dir_pair.source.observe(name).entry().is_some_and(is_left_over) {
                out.notices.push((rel.join(&observation.name), Notice::Reserved));
            }
        }
        if self.shared.capabilities.folds_case
            && let Some(first) = same_but_for_case(&dir_pair.source, name)
            && first != observation.name
        {
            // Only the first of such names is mirrored. The replica's entry belongs to that one.
            if dir_pair.source.observe(name) != Observed::Absent {
                let problem =
                    Problem { path: rel.join(&observation.name), cause: Cause::Collides(first) };
                out.problems.push((problem, observation.check));
            }
            return None;
        }
        if let Some(mount) = self.lost_mount_at(rel, &observation.name) {
            out.keep(mount.clone(), &mount);
            return None;
        }
        // While deletions are held, new entries may be limited, so the replica has to be observed.
        observation.check.unseen_in_replica &= !self.terms.deletions.are_held();
        if observation.check.unseen_in_replica {
            return (!dir_pair.filter.excludes_either(name, [Some(false), None]))
                .then_some(observation);
        }
        let both = (&dir_pair.source, dir_pair.replica.as_deref());
        let (source, replica) = self.shared.roots.see(both, &observation.name)?;
        let sides = [&source, &replica].map(|side| side.entry().map(Entry::is_dir));
        if dir_pair.filter.excludes_either(name, sides) {
            return None;
        }
        let is_watched = self.terms.detector == Detector::Watch;
        let noted = |entry: &&Entry| entry.kind == Kind::File && (is_watched || entry.has_links());
        let noted = source.entry().filter(noted);
        out.names
            .extend(noted.map(|entry| Linked::any(&rel.join(&observation.name), entry, false)));
        if observation.check.told {
            self.note_stray(
                rel.join(&observation.name),
                &observation.check,
                (&source, &replica),
                out,
            );
        }
        (observation.source, observation.replica) = (source, replica);
        Some(observation)
    }

    /// Notes a reported write that may not concern the entry that stands here now: that was renamed
    /// to here, or nothing is here. The kernel reports a write under the name by which the file was
    /// opened.
    fn note_stray(
        &self,
        path: RelPath,
        check: &Check,
        (source, replica): (&Observed, &Observed),
        out: &mut RoundOutput,
    ) {
        let is_file = |side: &Observed| side.entry().is_some_and(|entry| entry.kind == Kind::File);
        let elapsed = self.terms.now.saturating_duration_since(check.since);
        let was_written =
            |entry: &Entry| entry.inode.ctime >= self.terms.begun.before(elapsed + TICK);
        if check.depth == Depth::Subtree {
            // If it was renamed in the replica too, both are alike. `moves` has noted what was
            // replaced.
            let capabilities = &self.shared.capabilities;
            let is_alike = source.entry().zip(replica.entry()).is_some_and(|(ours, theirs)| {
                ours.size == theirs.size && capabilities.is_same_mtime(ours, theirs)
            });
            let may_have_replaced = is_file(source) && is_file(replica) && !is_alike;
            out.replaced.extend(may_have_replaced.then_some(path));
            return;
        }
        let is_stray = match source {
            Observed::Absent => *replica == Observed::Absent,
            Observed::Present(entry) => {
                is_file(source) && self.shared.capabilities.ctimes && !was_written(entry)
            }
            Observed::Unknown(_) | Observed::Unobserved => false,
        };
        out.stray_writes.extend(is_stray.then_some(path));
    }
}

/// Returns whether an entry has not changed for [`PASSING`], by the clock of the system and its
/// ctime.
fn is_left_over(entry: &Entry) -> bool {
    clock::now().sec.saturating_sub(entry.inode.ctime.sec) >= PASSING.as_secs().cast_signed()
}

/// Returns the first name in a directory that equals `name` except for upper and lower case.
fn same_but_for_case(source: &Dir, name: &[u8]) -> Option<Name> {
    let listing = source.open(&RelPath::root()).and_then(|dir| dir.list()).ok()?;
    let wanted = fold_case(name);
    listing
        .iter()
        .find(|(other, _)| fold_case(other) == wanted)
        .and_then(|(first, _)| Name::new(first))
}
