//! A replica in memory: the second implementation of [`Writer`], for tests of the loop. It uses no
//! descriptors of the replica, and it reports the MD5s of its files, as an object store does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crossbeam_channel::{Receiver, never};
use md5::Digest;

use super::{BackgroundStatus, LongJob, Outcome, Waiting, Work, Writer};
use crate::fs::filter::Filter;
use crate::fs::roots::Lost;
use crate::fs::tree::{Dir, DirId, FreeSpace, ListedKind, Listing, Root};
use crate::fs::view::{ReplicaFile, ReplicaView, Trees};
use crate::model::check::{Check, Checks, Depth, add};
use crate::model::entry::{Entry, Inode, Kind, Md5, Observed, Time, XattrKinds, Xattrs};
use crate::model::error::{FsError, FsErrorKind, Side, WorkError};
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::plan::decide::{Action, Contents, decide};
use crate::plan::deletions::Deletions;
use crate::plan::metadata::Capabilities;
use crate::plan::verified_dirs::VerifiedDirs;
use crate::report::{Cause, Done, Operation, Problem};

const NO_DIR: FsError = FsError::found("open the directory", Side::Replica, FsErrorKind::NotFound);
const NO_FILE: FsError = FsError::found("open the file", Side::Replica, FsErrorKind::NotFound);
const FULL: FsError = FsError::found("store the file", Side::Replica, FsErrorKind::NoSpace);

/// An entry of the replica. Only files have `bytes`.
#[derive(Clone)]
struct Node {
    entry: Entry,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Store {
    nodes: Mutex<BTreeMap<RelPath, Node>>,
    /// The inode number of the next entry.
    numbers: AtomicU64,
    /// Whether it is out of space.
    is_full: AtomicBool,
    /// Whether it cannot be reached, and how often a daemon has found it so.
    is_away: AtomicBool,
    misses: AtomicU64,
}

impl Store {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<RelPath, Node>> {
        self.nodes.lock().unwrap()
    }

    fn observe(&self, path: &RelPath) -> Observed {
        let node = self.nodes().get(path).map(|node| node.entry.clone());
        node.map_or(Observed::Absent, Observed::Present)
    }

    /// Stores an entry with the source's facts, in place of what is at `path`.
    fn put(&self, path: &RelPath, source: &Entry, bytes: Vec<u8>) {
        let ino = self.numbers.fetch_add(1, Ordering::Relaxed);
        let inode = Inode {
            dev: u64::MAX,
            ino,
            birth: None,
            ctime: Time::default(),
            links: 1,
            mount_root: false,
            append_only: false,
            immutable: false,
        };
        let xattrs = Some(source.xattrs.clone().unwrap_or_default());
        let entry = Entry { xattrs, inode, ..source.clone() };
        let mut nodes = self.nodes();
        if !entry.is_dir() {
            nodes.retain(|other, _| other == path || !other.is_within(path));
        }
        nodes.insert(path.clone(), Node { entry, bytes });
    }

    /// Removes an entry and all below it.
    fn remove(&self, path: &RelPath) {
        self.nodes().retain(|other, _| !other.is_within(path));
    }
}

/// A handle by which a test reads and changes the replica while a daemon writes to it.
#[derive(Clone)]
pub struct MemoryReplica(Arc<Store>);

impl MemoryReplica {
    /// Returns all paths but the root, with the contents of files.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let nodes = self.0.nodes();
        let named = nodes.iter().filter(|(path, _)| !path.is_root());
        named.map(|(path, node)| (path.to_string(), node.bytes.clone())).collect()
    }

    /// Flips a bit of a file's contents. No metadata changes.
    pub fn rot(&self, path: &RelPath) {
        self.0.nodes().get_mut(path).unwrap().bytes[0] ^= 1;
    }

    /// Makes a writer that continues with this replica in another run.
    pub fn writer(&self, source: Root) -> MemoryWriter {
        MemoryWriter::with(source, Arc::clone(&self.0))
    }

    pub fn set_full(&self, is_full: bool) {
        self.0.is_full.store(is_full, Ordering::Relaxed);
    }

    pub fn set_away(&self, is_away: bool) {
        self.0.is_away.store(is_away, Ordering::Relaxed);
    }

    /// Returns whether it cannot be reached. If so, counts it for [`misses`](Self::misses).
    pub fn is_away(&self) -> bool {
        let is_away = self.0.is_away.load(Ordering::Relaxed);
        self.0.misses.fetch_add(u64::from(is_away), Ordering::Relaxed);
        is_away
    }

    /// Returns how often the daemon has found it unreachable.
    pub fn misses(&self) -> u64 {
        self.0.misses.load(Ordering::Relaxed)
    }
}

/// A source on a file system, and a replica in memory.
#[derive(Clone)]
pub struct MemoryTrees {
    source: Root,
    source_id: DirId,
    store: Arc<Store>,
}

impl MemoryTrees {
    fn open_source(&self) -> Result<Dir, Lost> {
        let (source, id) = self.source.open_source().map_err(Lost::Source)?;
        if id != self.source_id {
            return Err(Lost::SourceReplaced);
        }
        if self.store.is_away.load(Ordering::Relaxed) {
            return Err(Lost::Replica(NO_DIR));
        }
        Ok(source)
    }
}

impl Trees for MemoryTrees {
    type Replica = MemoryDir;

    fn open(&self) -> Result<(Dir, Option<MemoryDir>), Lost> {
        let source = self.open_source()?;
        Ok((source, Some(MemoryDir { store: Arc::clone(&self.store), path: RelPath::root() })))
    }

    fn is_replica(&self, _: &Entry) -> bool {
        false
    }

    fn is_source(&self, _: &Entry) -> bool {
        false
    }
}

/// A directory of the replica.
pub struct MemoryDir {
    store: Arc<Store>,
    path: RelPath,
}

impl MemoryDir {
    fn node(&self, name: &[u8]) -> Option<Node> {
        self.store.nodes().get(&self.path.join(&Name::new(name)?)).cloned()
    }
}

impl ReplicaView for MemoryDir {
    fn open(&self, dir: &RelPath) -> Result<Self, FsError> {
        let path = self.path.below(dir);
        let is_dir = self.store.observe(&path).is_dir();
        if is_dir { Ok(Self { store: Arc::clone(&self.store), path }) } else { Err(NO_DIR) }
    }

    fn entry(&self) -> Result<Entry, FsError> {
        self.store.observe(&self.path).entry().cloned().ok_or(NO_DIR)
    }

    fn list(&self) -> Result<Listing, FsError> {
        let nodes = self.store.nodes();
        let here = nodes.iter().filter_map(|(path, node)| {
            let (dir, name) = path.split()?;
            (dir == self.path).then_some((name, &node.entry.kind))
        });
        Ok(Listing::of(here.map(|(name, kind)| {
            let kind = match kind {
                Kind::Dir => ListedKind::Dir,
                Kind::File => ListedKind::File,
                Kind::Symlink(_) => ListedKind::Symlink,
                Kind::Special(_) => ListedKind::Special,
            };
            (name, kind)
        })))
    }

    fn observe(&self, name: &[u8]) -> Observed {
        self.node(name).map_or(Observed::Absent, |node| Observed::Present(node.entry))
    }

    fn xattrs(&self, _: XattrKinds) -> Result<Xattrs, FsError> {
        Ok(self.entry()?.xattrs.unwrap_or_default())
    }

    fn open_file(&self, name: &[u8]) -> Result<(ReplicaFile, Entry), FsError> {
        let Node { entry, bytes } =
            self.node(name).filter(|node| node.entry.is_file()).ok_or(NO_FILE)?;
        let xattrs = entry.xattrs.clone().unwrap_or_default();
        Ok((ReplicaFile::Told { md5: md5_of(&bytes), xattrs }, entry))
    }
}

fn md5_of(bytes: &[u8]) -> Md5 {
    Md5(md5::Md5::digest(bytes).into())
}

/// A writer of a replica in memory. It does everything in the round, and nothing in the background.
pub struct MemoryWriter {
    trees: MemoryTrees,
    capabilities: Capabilities,
    filter: Filter,
    nothing: Receiver<Infallible>,
}

impl MemoryWriter {
    /// Makes one with an empty replica.
    pub fn new(source: Root) -> Self {
        let store = Arc::<Store>::default();
        let entry = source.open_source().unwrap().0.entry().unwrap();
        store.put(&RelPath::root(), &entry, Vec::new());
        Self::with(source, store)
    }

    fn with(source: Root, store: Arc<Store>) -> Self {
        let (_, source_id) = source.open_source().unwrap();
        Self {
            trees: MemoryTrees { source, source_id, store },
            capabilities: Capabilities { owner: true, ctimes: false, ..Capabilities::all() },
            filter: Filter::default(),
            nothing: never(),
        }
    }

    pub fn replica(&self) -> MemoryReplica {
        MemoryReplica(Arc::clone(&self.trees.store))
    }

    /// Checks one name, and makes the replica match the source there.
    fn work_on(
        &self,
        source: &Dir,
        path: &RelPath,
        check: &Check,
        terms: Deletions,
        out: &mut Outcome,
    ) {
        let Some((dir, name)) = path.split() else { return };
        let store = &self.trees.store;
        let open = match source.open(&dir) {
            Ok(open) => open,
            // A directory above it has changed: that is checked instead.
            Err(error) if error.is_dir_absence() => {
                return self.work_on(source, &dir, check, terms, out);
            }
            Err(error) => return out.record_failure(path.clone(), check.clone(), error.into()),
        };
        let ours = match open.observe(name.as_bytes()) {
            Observed::Present(entry) => match self.with_xattrs(&open, &name, entry) {
                Ok(entry) => Observed::Present(entry),
                Err(error) => Observed::Unknown(error),
            },
            other => other,
        };
        let theirs = store.observe(path);
        if ours != Observed::Absent && !store.observe(&dir).is_dir() {
            self.work_on(source, &dir, check, terms, out);
        }
        let mut contents = Contents::Unread;
        let mut bytes = Vec::new();
        if ours.entry().is_some_and(Entry::is_file) {
            match read(&open, &name) {
                Ok(read) => bytes = read,
                Err(work_error) => {
                    return out.record_failure(path.clone(), check.clone(), work_error);
                }
            }
            let stored = store.nodes().get(path).map(|node| node.bytes.clone());
            out.hashed += 1;
            contents =
                if stored.as_ref() == Some(&bytes) { Contents::Same } else { Contents::Differ };
        }
        let action = decide(&ours, &theirs, contents, &self.capabilities);
        self.act(action, path, (&ours, &theirs), bytes, (check, terms), out);
    }

    /// Adds the extended attributes of a file or directory. Those of symlinks are not mirrored.
    fn with_xattrs(&self, dir: &Dir, name: &Name, entry: Entry) -> Result<Entry, FsError> {
        let kinds = self.capabilities.xattrs;
        let xattrs = match entry.kind {
            Kind::File => dir.open_file(name.as_bytes())?.0.xattrs(kinds)?,
            Kind::Dir => dir.open(&RelPath::root().join(name))?.xattrs(kinds)?,
            Kind::Symlink(_) | Kind::Special(_) => Xattrs::default(),
        };
        Ok(Entry { xattrs: Some(xattrs), ..entry })
    }

    fn act(
        &self,
        action: Action,
        path: &RelPath,
        (ours, theirs): (&Observed, &Observed),
        bytes: Vec<u8>,
        (check, deletions): (&Check, Deletions),
        out: &mut Outcome,
    ) {
        let store = &self.trees.store;
        let reason = match action {
            Action::MakeDir(reason) | Action::CopyFile(reason) | Action::MakeSymlink(reason) => {
                reason
            }
            Action::SetMetadata(_) => Reason::Metadata,
            Action::Remove => Reason::Removed,
            Action::Unsure => {
                let error = ours.error().or(theirs.error());
                let problem = |error| Problem { path: path.clone(), cause: Cause::FsError(error) };
                out.problems.extend(error.map(|error| (problem(error), check.clone())));
                return;
            }
            Action::Nothing | Action::Compare | Action::NotMirrored { .. } => return,
        };
        let (Some(entry), is_removal) = (ours.entry().or(theirs.entry()), action == Action::Remove)
        else {
            return;
        };
        // Replacing a directory deletes all that it holds.
        let replaces_dir = theirs.is_dir() && !entry.is_dir();
        if deletions.are_held() && (is_removal || replaces_dir) {
            return out.hold(path);
        }
        if deletions.create_budget() == Some(0) && *theirs == Observed::Absent {
            return out.wait(path);
        }
        if is_removal {
            store.remove(path);
            return out.act(Done::new(Operation::Removed, path.clone(), entry, reason, check));
        }
        if store.is_full.load(Ordering::Relaxed) && reason != Reason::Metadata {
            let problem = Problem { path: path.clone(), cause: Cause::FsError(FULL) };
            return out.problems.push((problem, check.clone()));
        }
        store.put(path, entry, bytes);
        let is_new = *theirs == Observed::Absent;
        if entry.is_dir() && !theirs.is_dir() {
            out.to_walk.push(path.clone());
        }
        let operation = if is_new { Operation::Created } else { Operation::Updated };
        out.act(Done::new(operation, path.clone(), entry, reason, check));
    }

    /// Gives a directory the metadata of the source's, after all its entries are done.
    fn finish_dir(&self, source: &Dir, dir: &RelPath) {
        let entry = || {
            let open = source.open(dir)?;
            Ok::<_, FsError>(Entry {
                xattrs: Some(open.xattrs(self.capabilities.xattrs)?),
                ..open.entry()?
            })
        };
        let mut nodes = self.trees.store.nodes();
        if let (Ok(entry), Some(node)) =
            (entry(), nodes.get_mut(dir).filter(|node| node.entry.is_dir()))
        {
            node.entry = Entry { inode: node.entry.inode.clone(), ..entry };
        }
    }
}

/// Reads a file of the source.
fn read(dir: &Dir, name: &Name) -> Result<Vec<u8>, WorkError> {
    let (file, before) = dir.open_file(name.as_bytes())?;
    let mut bytes = vec![0; usize::try_from(before.size).unwrap() + 1];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    // RACE: it may be written to while it is read.
    if file.entry()?.identity() == before.identity() { Ok(bytes) } else { Err(WorkError::Changed) }
}

impl Writer for MemoryWriter {
    type Ended = Infallible;
    type Trees = MemoryTrees;

    fn round(&mut self, work: Work, _: &dyn Waiting) -> Result<Outcome, Lost> {
        let source = self.trees.open_source()?;
        let Work { moves, mut checks, detector, deletions, .. } = work;
        // This replica cannot rename: the old name is deleted, and the new one is copied.
        for rename in moves.renames() {
            for path in [&rename.from, &rename.to] {
                add(&mut checks, path, Check::new(Depth::Subtree, detector, rename.since));
            }
        }
        let mut out = Outcome::default();
        for (dir, names) in Checks::clone(&checks) {
            for (name, check) in names {
                self.work_on(&source, &dir.join(&name), &check, deletions, &mut out);
            }
        }
        for dir in checks.keys().rev() {
            self.finish_dir(&source, dir);
        }
        out.log_done();
        self.trees.open_source()?;
        Ok(out)
    }

    fn ended(&self) -> &Receiver<Infallible> {
        &self.nothing
    }

    fn give_back(&mut self, ended: Infallible) {
        match ended {}
    }

    fn paths_given_back(&self) -> Vec<RelPath> {
        Vec::new()
    }

    fn forget_given_back(&mut self) {}

    fn background(&self) -> BackgroundStatus {
        BackgroundStatus { free_workers: 1, is_idle: true, is_idle_for_sweep: true, oldest: None }
    }

    fn longest_job(&self) -> Option<LongJob> {
        None
    }

    fn abandon(&mut self) {}

    fn free_space(&self) -> Vec<FreeSpace> {
        let bytes = if self.trees.store.is_full.load(Ordering::Relaxed) { 0 } else { 1 << 30 };
        vec![FreeSpace { bytes, entries: 1 << 20, read_only: false }]
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn trees(&self) -> MemoryTrees {
        self.trees.clone()
    }

    fn filter(&self) -> &Filter {
        &self.filter
    }

    fn verified_dirs(&self) -> Option<&Arc<VerifiedDirs>> {
        None
    }

    fn remember_submount(&mut self, _: RelPath, _: DirId) -> bool {
        false
    }

    fn submounts(&self) -> Vec<RelPath> {
        Vec::new()
    }

    fn tend(&mut self, _: Instant) {}

    fn finish(&mut self) {}
}
