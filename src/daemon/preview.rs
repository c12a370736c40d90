//! `--dry-run` and `--check`: what a run would do, and what differs. A preview only reads: it holds
//! no directory of the replica that could be written to, and creates nothing.
//!
//! As in a real run, the sweep says what to check, and [`decide`] what would be done.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crossbeam_channel::{Receiver, select};
use signal_hook::consts::{SIGCONT, SIGUSR1, SIGWINCH};

use crate::fs::filter::Filter;
use crate::fs::roots::Lost;
use crate::fs::tree::Dir;
use crate::fs::view::{ReplicaView, Trees};
use crate::model::check::{CachedDigests, Check, Depth, Detector};
use crate::model::config::{Config, Mode};
use crate::model::entry::{Entry, Observed, Special, XattrKinds};
use crate::model::error::{APPEND_ONLY_DIR, APPEND_ONLY_METADATA, FsError, LOCKED, WorkError};
use crate::model::human::{counted, human_bytes};
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::model::task::Task;
use crate::plan::decide::{Action, Contents, decide};
use crate::plan::deletions::Deletions;
use crate::plan::failures::Failures;
use crate::plan::guard::{Count, Occasion, Trust, judge, log_held};
use crate::plan::metadata::{Capabilities, MetadataDiff};
use crate::plan::removal::{RemovalKind, Ruling, Stay};
use crate::report::{Cause, Done, Entries, Notice, Operation, Problem, log_if_silent};
use crate::sweep::{Extent, Message, Plan, Sweep};
use crate::writer::PreviewRules;
use crate::writer::fs::round::{COUNTING, count_below};

/// The result of a preview.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PreviewResult {
    /// Nothing would be done; nothing differs.
    Equal,
    /// Something would be done, or differs.
    Differs,
    /// Something could not be examined, or deletions would be held.
    Incomplete,
    Interrupted,
}

/// The trees and settings of a preview. There may be no replica yet.
pub struct Subject<P: PreviewRules> {
    pub trees: P::Trees,
    pub rules: P,
    pub filter: Filter,
    pub capabilities: Capabilities,
}

/// Compares both trees once, and logs what it finds.
///
/// # Errors
/// If no thread can be started.
pub fn preview(
    config: &Config,
    subject: Subject<impl PreviewRules>,
    signals: &Receiver<i32>,
) -> std::io::Result<PreviewResult> {
    let opened = subject.trees.open();
    let (source, replica) = match opened {
        Ok(opened) => opened,
        Err(lost) => {
            log_lost(lost);
            return Ok(PreviewResult::Incomplete);
        }
    };
    let mut preview = Preview {
        check: config.mode == Mode::Check,
        config,
        source,
        replica,
        subject,
        deletions: Deletions::Followed,
        differ: 0,
        holding: 0,
        waiting: 0,
        problems: 0,
        failures: Failures::default(),
        unmade: Vec::new(),
        entries: 0,
    };
    if !preview.check && !preview.run(Task::Count, signals)? {
        return Ok(PreviewResult::Interrupted);
    }
    if !preview.run(config.task, signals)? {
        return Ok(PreviewResult::Interrupted);
    }
    Ok(preview.finish())
}

struct Preview<'a, P: PreviewRules> {
    check: bool,
    config: &'a Config,
    source: Dir,
    /// `None` if there is no replica yet.
    replica: Option<<P::Trees as Trees>::Replica>,
    subject: Subject<P>,
    /// Whether the guard would hold deletions.
    deletions: Deletions,
    differ: u64,
    holding: u64,
    waiting: u64,
    problems: u64,
    /// The problems that were logged.
    failures: Failures,
    /// Directories that a run could not make, and so nothing below them either.
    unmade: Vec<RelPath>,
    entries: u64,
}

impl<P: PreviewRules> Preview<'_, P> {
    /// Runs one walk to its end; `false` if a signal ended it.
    fn run(&mut self, task: Task, signals: &Receiver<i32>) -> std::io::Result<bool> {
        let sweep = Sweep::start(Plan {
            trees: self.subject.trees.clone(),
            capabilities: self.subject.capabilities.clone(),
            filter: self.subject.filter.clone(),
            threads: self.config.threads,
            scopes: vec![RelPath::root()],
            task,
            rate: self.config.sweep_rate,
            drop_behind: false,
            detector: Detector::Sweep,
            registry: None,
            extent: Extent::Below,
            verified_dirs: None,
            submounts: Vec::new(),
        })?;
        loop {
            let message = select! {
                recv(signals) -> signal => match signal {
                    Ok(SIGUSR1) => {
                        let (entries, bytes) = sweep.progress();
                        say_progress(entries, bytes);
                        continue;
                    }
                    // There is no live line to draw again.
                    Ok(SIGCONT | SIGWINCH) => continue,
                    _ => return Ok(false),
                },
                recv(sweep.messages()) -> message => message,
            };
            match message {
                Ok(Message::Differ(dir, names)) if names.is_empty() => self.examine_dir(&dir),
                Ok(Message::Differ(dir, names)) => {
                    for (name, check) in names {
                        self.see(&dir, &name, &check);
                    }
                }
                Ok(
                    Message::Walked(_)
                    | Message::SourceSubmount(..)
                    | Message::Unwatched(..)
                    | Message::Linked(_),
                ) => {}
                Ok(Message::Problem(problem)) => self.fail(&problem),
                Ok(Message::Counted(count)) => {
                    self.judge(&count);
                    return Ok(true);
                }
                Ok(Message::Swept(summary)) => {
                    self.entries = summary.entries;
                    return Ok(true);
                }
                Ok(Message::Lost(lost)) => {
                    log_lost(lost);
                    self.problems += 1;
                    return Ok(true);
                }
                // The sweep's thread has panicked, which ends the run.
                Err(_) => {
                    self.problems += 1;
                    return Ok(true);
                }
            }
        }
    }

    fn judge(&mut self, count: &Count) {
        let (limit, occasion) = (self.config.max_delete, Occasion::Start);
        if let Some(doubt) = judge(count, limit, occasion) {
            log_held(count, &doubt, (limit, occasion), &self.config.rerun);
            let trust = Trust::Unproven(occasion).after_doubt(count, &doubt, limit);
            self.deletions = trust.deletions(Detector::Sweep);
        }
    }

    fn fail(&mut self, problem: &Problem) {
        self.problems += 1;
        if self.failures.met(&problem.path, problem.failure_kind(), Instant::now()).tell {
            problem.log(None);
        }
    }

    /// Compares the metadata of a directory that stands on both sides.
    fn examine_dir(&mut self, dir: &RelPath) {
        let kinds = self.subject.capabilities.xattrs;
        let Some(replica) = &self.replica else { return };
        let (source, replica) = match (facts(&self.source, dir, kinds), facts(replica, dir, kinds))
        {
            (Ok(source), Ok(replica)) => (source, replica),
            (Err(error), _) | (_, Err(error)) => {
                return self.fail(&Problem { path: dir.clone(), cause: Cause::FsError(error) });
            }
        };
        let differs = MetadataDiff::between(&source, &replica, &self.subject.capabilities);
        let check = Check::new(Depth::Content, Detector::Sweep, Instant::now());
        // The mtime of a directory alone is no action; for a check it is a difference.
        if differs.any() && replica.is_locked() && !self.check {
            self.fail(&Problem { path: dir.clone(), cause: Cause::FsError(APPEND_ONLY_METADATA) });
        } else if differs.any_but_mtime() || (self.check && differs.any()) {
            let mut done =
                Done::new(Operation::Updated, dir.clone(), &source, Reason::Metadata, &check);
            done.differs = MetadataDiff { mtime: self.check && differs.mtime, ..differs };
            self.say(&done);
        }
    }

    /// Handles one name that the sweep has found to differ.
    fn see(&mut self, dir: &RelPath, name: &Name, check: &Check) {
        let path = dir.join(name);
        let source = self.source.open(dir);
        let replica = self.replica.as_ref().and_then(|root| root.open(dir).ok());
        let source = match source {
            Ok(source) => source,
            Err(error) if error.is_dir_absence() => return,
            Err(error) => return self.fail(&Problem { path, cause: Cause::FsError(error) }),
        };
        let both = (&source, replica.as_ref());
        let Some((ours, theirs)) = self.subject.trees.see(both, name) else { return };
        let capabilities = &self.subject.capabilities;
        let action = match decide(&ours, &theirs, Contents::Unread, capabilities) {
            Action::CopyFile(Reason::Size) if !source.ends_at_reported_size(name) => {
                Action::Compare
            }
            action => action,
        };
        let result = match action {
            Action::Compare => {
                match read_pair((&source, replica.as_ref()), name, check, capabilities) {
                    Ok((ours, theirs, cached)) => {
                        log_if_silent(&path, &cached, check.detector, None, capabilities.unseen);
                        let (ours, theirs) = (Observed::Present(ours), Observed::Present(theirs));
                        Ok((
                            decide(&ours, &theirs, cached.digests.into(), capabilities),
                            ours,
                            theirs,
                        ))
                    }
                    Err(work_error) => Err(work_error),
                }
            }
            // A run could not copy a file that cannot be read.
            Action::CopyFile(_) if !self.check => match source.open_file(name.as_bytes()) {
                Err(error) if !error.is_absence() => Err(error.into()),
                _ => Ok((action, ours, theirs)),
            },
            action => Ok((action, ours, theirs)),
        };
        match result {
            Ok((action, ours, theirs)) => {
                self.tell(action, path, (&ours, &theirs), replica.as_ref(), check);
            }
            Err(work_error) => {
                if let Some(problem) = Problem::from_work_error(path, work_error) {
                    self.fail(&problem);
                }
            }
        }
    }

    fn tell(
        &mut self,
        action: Action,
        path: RelPath,
        (ours, theirs): (&Observed, &Observed),
        replica: Option<&<P::Trees as Trees>::Replica>,
        check: &Check,
    ) {
        let (operation, entry, reason) = match (action, ours.entry(), theirs.entry()) {
            (
                Action::MakeDir(reason) | Action::CopyFile(reason) | Action::MakeSymlink(reason),
                Some(entry),
                _,
            ) => {
                let new = *theirs == Observed::Absent;
                (if new { Operation::Created } else { Operation::Updated }, entry, reason)
            }
            (Action::SetMetadata(_), Some(entry), _) => {
                (Operation::Updated, entry, Reason::Metadata)
            }
            (Action::Remove | Action::NotMirrored { stale: true, .. }, _, Some(entry)) => {
                (Operation::Removed, entry, Reason::Removed)
            }
            (Action::Unsure, ..) => {
                if let Some(error) = ours.error().or(theirs.error()) {
                    self.fail(&Problem { path, cause: Cause::FsError(error) });
                }
                return;
            }
            _ => {
                if let Action::NotMirrored { special, .. } = action
                    && special != Special::Symlink
                {
                    Notice::Special(special).log(&path);
                }
                return;
            }
        };
        let is_own = path.split().is_some_and(|(_, name)| name.is_reserved());
        if is_own && !self.check {
            return;
        }
        let stands_on = operation != Operation::Removed && entry.is_dir() && theirs.is_dir();
        if self.unmade.iter().any(|dir| path.is_within(dir)) {
            return;
        }
        let dir = replica.and_then(|dir| dir.entry().ok());
        if !self.check && is_kept_by_a_lock(action, theirs, dir.as_ref()) {
            self.unmade.extend(matches!(action, Action::MakeDir(_)).then(|| path.clone()));
            return self.fail(&Problem { path, cause: Cause::FsError(LOCKED) });
        }
        let is_append_only_dir = dir.is_some_and(|dir| dir.inode.append_only);
        if !is_own && !stands_on && self.stays(operation, &path, theirs, check, is_append_only_dir)
        {
            let is_unmade = matches!(action, Action::MakeDir(_)) && *theirs != Observed::Absent;
            self.unmade.extend(is_unmade.then_some(path));
            return;
        }
        // Directories are made under their own names. Files are renamed to them, which fails here.
        if is_append_only_dir && *theirs == Observed::Absent && !entry.is_dir() && !self.check {
            return self.fail(&Problem { path, cause: Cause::FsError(APPEND_ONLY_DIR) });
        }
        let mut done = Done::new(operation, path.clone(), entry, reason, check);
        if operation != Operation::Removed && entry.is_file() && reason != Reason::Metadata {
            done.bytes = Some(entry.size);
        }
        if operation == Operation::Removed
            && entry.is_dir()
            && let (Some(replica), Some((_, name))) = (replica, path.split())
        {
            let mut number = 1;
            let at_least = !count_below(replica, &name, &mut number, Instant::now() + COUNTING);
            done.entries = Some(Entries { number, at_least });
        }
        if let Action::SetMetadata(differs) = action {
            done.differs = differs;
        }
        self.say(&done);
    }

    /// Returns whether a run would keep an entry, or a part of it. Logs or counts the reason.
    fn stays(
        &mut self,
        operation: Operation,
        path: &RelPath,
        standing: &Observed,
        check: &Check,
        is_append_only_dir: bool,
    ) -> bool {
        let removal_kind = if operation == Operation::Removed {
            RemovalKind::Removed
        } else {
            RemovalKind::Replaced
        };
        let (Some(replica), Some(entry)) = (&self.replica, standing.entry()) else {
            let waits = *standing == Observed::Absent && self.deletions.create_budget() == Some(0);
            self.waiting += u64::from(waits);
            return waits;
        };
        let Subject { trees, rules, filter, .. } = &self.subject;
        let how = (removal_kind, is_append_only_dir);
        match rules.ruling((trees, replica), filter, self.deletions, (path, entry), how) {
            Ruling::Allowed(_) => return false,
            Ruling::AllowedInParts(parts, _) => {
                Notice::HoldsExcluded.log(path);
                self.report_parts(parts, check);
            }
            Ruling::Refused(Stay::Held | Stay::Unmounted(_)) => self.holding += 1,
            // For a check it differs, whatever a run could do.
            Ruling::Refused(Stay::FsError(_)) if self.check => return false,
            Ruling::Refused(Stay::FsError(error)) => {
                self.fail(&Problem { path: path.clone(), cause: Cause::FsError(error) });
            }
        }
        true
    }

    /// Reports the entries that a run would delete in a directory that has to stay.
    fn report_parts(&mut self, parts: Vec<RelPath>, check: &Check) {
        for path in parts {
            let Some((dir, name)) = path.split() else { continue };
            let Some(dir) = self.replica.as_ref().and_then(|root| root.open(&dir).ok()) else {
                continue;
            };
            let standing = dir.observe(name.as_bytes());
            self.tell(Action::Remove, path, (&Observed::Absent, &standing), Some(&dir), check);
        }
    }

    fn say(&mut self, done: &Done) {
        self.differ += 1;
        if self.check {
            done.log_difference();
        } else {
            done.log_dry();
        }
    }

    fn finish(&self) -> PreviewResult {
        let differ = self.differ;
        if self.check {
            tracing::info!(
                op = "check",
                differ,
                "{}, {}",
                counted(self.entries, "entry", "entries"),
                counted(differ, "difference", "differences")
            );
        } else {
            let mut found = vec![counted(differ, "action", "actions")];
            if self.holding > 0 {
                found.push(format!("{} held", counted(self.holding, "deletion", "deletions")));
            }
            if self.waiting > 0 {
                found.push(format!("{} new waiting", self.waiting));
            }
            tracing::info!(op = "dry run", differ, "{}; nothing was changed", found.join(", "));
        }
        match (self.problems > 0 || self.deletions.are_held(), differ > 0) {
            (true, _) => PreviewResult::Incomplete,
            (false, true) => PreviewResult::Differs,
            (false, false) => PreviewResult::Equal,
        }
    }
}

/// Returns whether an entry cannot be changed in place since it is append-only or immutable, or
/// nothing can be changed in its directory.
fn is_kept_by_a_lock(action: Action, theirs: &Observed, dir: Option<&Entry>) -> bool {
    let in_place =
        matches!(action, Action::SetMetadata(_)) && theirs.entry().is_some_and(Entry::is_locked);
    in_place || dir.is_some_and(|dir| dir.inode.immutable)
}

/// Logs how far the walk has come.
fn say_progress(entries: u64, bytes: u64) {
    tracing::info!(
        op = "status",
        "{} compared, {} read so far",
        counted(entries, "entry", "entries"),
        human_bytes(bytes)
    );
}

/// Logs that a root is another directory now, or cannot be opened.
fn log_lost(lost: Lost) {
    match lost {
        Lost::Source(error) | Lost::Replica(error) => {
            Problem { path: RelPath::root(), cause: Cause::FsError(error) }.log(None);
        }
        Lost::SourceReplaced | Lost::ReplicaReplaced => {
            tracing::error!(op = "error", "stopped half-way: {lost}");
        }
    }
}

/// Reads the facts of a directory on one side, with its attributes.
fn facts(root: &impl ReplicaView, dir: &RelPath, kinds: XattrKinds) -> Result<Entry, FsError> {
    let open = root.open(dir)?;
    Ok(Entry { xattrs: Some(open.xattrs(kinds)?), ..open.entry()? })
}

/// Compares both files of a pair. Returns their facts, with attributes, and their MD5s.
fn read_pair(
    (source, replica): (&Dir, Option<&impl ReplicaView>),
    name: &Name,
    check: &Check,
    capabilities: &Capabilities,
) -> Result<(Entry, Entry, CachedDigests), WorkError> {
    let replica = replica.ok_or(WorkError::Changed)?;
    let (ours, mut source) = source.open_file(name.as_bytes())?;
    let (theirs, mut replica) = replica.open_file(name.as_bytes())?;
    let seen = (source.identity(), replica.identity());
    let digests = match check
        .cached
        .as_deref()
        .and_then(|known| known.digests_for(&source, &replica))
    {
        Some(digests) => digests,
        None => {
            theirs.compare_large(&replica, (&ours, &source), &AtomicBool::new(false), &|_| {})?
        }
    };
    source.xattrs = Some(ours.xattrs(capabilities.xattrs)?);
    replica.xattrs = Some(theirs.xattrs(capabilities.xattrs)?);
    Ok((source, replica, CachedDigests { source: seen.0, replica: seen.1, digests }))
}
