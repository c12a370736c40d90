//! The start of a run: resolves both roots, refuses those that cannot be mirrored safely, and
//! records which directories they are.

mod lock;
mod root_mounts;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf, absolute};
use std::sync::Arc;

use crate::fs::filter::{Filter, Flaw, Patterns, lines};
use crate::fs::mounts;
use crate::fs::roots::Roots;
use crate::fs::tree::{DirId, Root, enclosing, lies_within, nearest_existing};
use crate::model::config::Config;
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, Side};
use crate::model::path::{Name, RelPath, Shown, shown};
use crate::report::{RotatingFile, advice};
use crate::writer::fs::backup::Backup;
use crate::writer::fs::probe::follows_symlinks;
pub use lock::{Lock, socket_names};
pub use root_mounts::{NotSameDisk, ReplicaMount, SourceMount};

/// Why a run is refused: what is wrong, and what to do. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the source {} does not exist: check the spelling, or mount its disk first", shown(.0))]
    NoSource(PathBuf),
    #[error("the source {} is not a directory: twindir mirrors directories", shown(.0))]
    SourceNoDir(PathBuf),
    #[error("the replica {} is not a directory: name a directory, or a path where one can be created", shown(.0))]
    ReplicaNoDir(PathBuf),
    #[error("the replica {} does not exist, and --no-create forbids to create it", shown(.0))]
    NoReplica(PathBuf),
    #[error(
        "the {0} {path} is a symlink that leads to nothing: make the directory that it names, or name the directory \
         itself",
        path = shown(.1)
    )]
    Dangling(&'static str, PathBuf),
    #[error("source and replica are the same directory ({}): name two different ones", shown(.0))]
    Same(PathBuf),
    #[error("the replica {} lies inside the source {}: it would be copied into itself; put it elsewhere", shown(.0), shown(.1))]
    ReplicaInSource(PathBuf, PathBuf),
    #[error("the source {} lies inside the replica {}: it would be deleted there; put the replica elsewhere", shown(.0), shown(.1))]
    SourceInReplica(PathBuf, PathBuf),
    #[error("{} goes on from a directory that does not exist, by `..`: give the path without that", shown(.0))]
    Dots(PathBuf),
    #[error("the log file {} lies inside the replica, which holds nothing but the source's entries: put it elsewhere", shown(.0))]
    LogInReplica(PathBuf),
    #[error("the backup folder {} lies inside {}, and would be mirrored or deleted there: put it elsewhere", shown(.0), shown(.1))]
    BackupInRoot(PathBuf, PathBuf),
    #[error("the backup folder {} is not a directory: name a directory, or a path where one can be created", shown(.0))]
    BackupNoDir(PathBuf),
    #[error("cannot use the backup folder {}: {}; name a folder that can be made and written to", shown(.0), .1)]
    Backup(PathBuf, String),
    #[error("the log file {} is a symlink to a file that does not exist: name the file itself", shown(.0))]
    LogNowhere(PathBuf),
    #[error("the log file {} is the console or another open file of twindir itself: name a file by its own path", shown(.0))]
    LogIsOpen(PathBuf),
    #[error("cannot write the log file {}: {}; name a regular file that can be created or appended to", shown(.0), .1)]
    Log(PathBuf, std::io::Error),
    #[error("--exclude {0:?} matches nothing: give one pattern, as in a .gitignore file")]
    NoPattern(String),
    #[error("the pattern {} (in {}) cannot be followed, since {}: give patterns as in a .gitignore file", Shown(.1), .0, .2)]
    Exclude(String, Vec<u8>, Flaw),
    #[error("cannot read the patterns in {}: {}; name a file that can be read", shown(.0), .1)]
    ExcludeFrom(PathBuf, std::io::Error),
    #[error(
        "cannot create the replica {}: {}{}",
        shown(.0),
        .1,
        if .1.kind() == std::io::ErrorKind::AlreadyExists { " (perhaps a symlink above it leads to nothing)" } else { "" }
    )]
    Create(PathBuf, std::io::Error),
    #[error("another twindir ({}) keeps the replica {} already: stop that one first", .1, shown(.0))]
    Locked(PathBuf, String),
    #[error(
        "another twindir (pid {pid}) mirrors {source_root} to {replica}: each of the two would overwrite the other's source. \
         Check which one is the source"
    )]
    Ring { pid: u32, source_root: String, replica: String },
    #[error(
        "the {0} {path} names a place on another machine, and twindir mirrors between directories of this one: mount it \
         (sshfs, NFS, rclone mount), and give the mount point. If a local path of that name is meant, write ./{path}",
        path = shown(.1)
    )]
    Remote(&'static str, PathBuf),
    #[error(
        "symlinks are followed in the replica {}: what is deleted or replaced there may lie elsewhere. Mount it so that \
         symlinks stay symlinks (sshfs without follow_symlinks)",
        shown(.0)
    )]
    FollowsSymlinks(PathBuf),
    #[error("the {0} {path} is a URL: give the path itself", path = shown(.1))]
    Url(&'static str, PathBuf),
    #[error("cannot lock the replica {}: {}", shown(.0), .1)]
    Lock(PathBuf, std::io::Error),
    #[error("{}: {}{}", shown(.0), .1, advice(.1))]
    FsError(PathBuf, FsError),
    #[error("{}: {}", shown(.0), .1)]
    Path(PathBuf, std::io::Error),
}

/// The result of [`Checked::prepare`], with which a run begins.
pub struct Prepared {
    pub roots: Roots,
    pub source_mount: SourceMount,
    pub replica_mount: ReplicaMount,
    pub lock: Lock,
    pub log: Option<RotatingFile>,
    pub filter: Filter,
    pub backup: Option<Arc<Backup>>,
    pub beside: ExtraPaths,
}

/// The absolute paths of the log file, which must not lie in the replica, and of the backup folder,
/// which must not lie in a root.
#[derive(Clone, Default, Debug)]
pub struct ExtraPaths {
    pub log: Option<PathBuf>,
    backup: Option<PathBuf>,
}

/// Roots that may be mirrored. Nothing was created yet.
pub struct Checked {
    source: Root,
    replica: Root,
    source_id: DirId,
    /// `None` if the replica does not exist yet.
    existing: Option<DirId>,
    beside: ExtraPaths,
    filter: Filter,
    durable: bool,
}

/// Refuses roots and other paths that are not safe. Creates and changes nothing.
///
/// # Errors
/// A [`Refusal`].
pub fn check(config: &Config) -> Result<Checked, Refusal> {
    refuse_remote(config)?;
    let source = Root::new(full(&config.source)?, Side::Source);
    let replica = Root::new(full(&config.replica)?, Side::Replica);
    for root in [&source, &replica] {
        if fs::symlink_metadata(&root.path).is_ok_and(|meta| meta.is_symlink())
            && root.id().is_err_and(|error| error.is_absence())
        {
            return Err(Refusal::Dangling(root.side.as_str(), root.path.clone()));
        }
    }
    let source_id = source.id().map_err(|error| source_refusal(&source.path, error))?;
    let existing = match replica.id() {
        Ok(id) => Some(id),
        Err(error) if error.is_absence() => None,
        Err(error) if error.kind == FsErrorKind::NotADirectory => {
            return Err(Refusal::ReplicaNoDir(replica.path));
        }
        Err(error) => return Err(Refusal::FsError(replica.path, error)),
    };
    let beside = ExtraPaths {
        log: config.log_file.as_deref().map(full).transpose()?,
        backup: config.backup_dir.as_deref().map(full).transpose()?,
    };
    if let Some(log) = beside.log.as_ref().filter(|log| is_open_file(log)) {
        return Err(Refusal::LogIsOpen(log.clone()));
    }
    ensure_apart((&source, &source_id), (&replica, existing.as_ref()), &beside)?;
    if existing.is_none() && !config.create {
        return Err(Refusal::NoReplica(replica.path));
    }
    let mut filter = filter_of(config)?;
    filter.log = beside.log_in_source(&source_id)?;
    Ok(Checked { source, replica, source_id, existing, beside, filter, durable: config.durable })
}

/// Refuses roots that are one directory or lie one in the other, a log file in the replica, and a
/// backup folder in a root.
///
/// # Errors
/// A [`Refusal`].
pub fn ensure_apart(
    (source, source_id): (&Root, &DirId),
    (replica, existing): (&Root, Option<&DirId>),
    beside: &ExtraPaths,
) -> Result<(), Refusal> {
    refuse_nesting(&source.path, source_id, &replica.path, existing)?;
    if let Some(log) = &beside.log {
        refuse_log_in_replica(log, &replica.path, existing)?;
    }
    if let Some(backup) = &beside.backup {
        refuse_backup_within(backup, &source.path, Some(source_id))?;
        refuse_backup_within(backup, &replica.path, existing)?;
    }
    Ok(())
}

impl ExtraPaths {
    /// Returns where the log file lies in the source; `None` if it does not lie there.
    ///
    /// # Errors
    /// If this cannot be found out.
    pub fn log_in_source(&self, source: &DirId) -> Result<Option<(RelPath, Name)>, Refusal> {
        self.log.as_deref().map_or(Ok(None), |log| log_in_source(log, source))
    }
}

/// Refuses paths in the form that other programs use for places on another machine. A source that
/// exists is accepted.
fn refuse_remote(config: &Config) -> Result<(), Refusal> {
    let refuse = |what, path: &Path, is_remote: fn(&Path) -> bool| match path {
        _ if !is_remote(path) => Ok(()),
        _ if path.as_os_str().as_bytes().starts_with(b"file://") => {
            Err(Refusal::Url(what, path.into()))
        }
        _ => Err(Refusal::Remote(what, path.into())),
    };
    if !fs::exists(&config.source).unwrap_or(true) {
        refuse("source", &config.source, is_remote)?;
    }
    refuse("replica", &config.replica, is_remote)?;
    config.backup_dir.as_deref().map_or(Ok(()), |path| refuse("backup folder", path, is_remote))?;
    // A colon is usual in the name of a log, since times have colons.
    config
        .log_file
        .as_deref()
        .map_or(Ok(()), |path| refuse("log file", path, |path| is_url(path) || has_user(path)))
}

/// Returns whether a path has the form `host:path`, `user@host:path` or `scheme://...`: a colon
/// before the first slash.
fn is_remote(path: &Path) -> bool {
    let first = path.as_os_str().as_bytes().split(|byte| *byte == b'/').next().unwrap_or_default();
    first.iter().position(|byte| *byte == b':').is_some_and(|at| at > 0)
}

/// Returns whether a path has the form `user@host:path`.
fn has_user(path: &Path) -> bool {
    let before = path.as_os_str().as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
    is_remote(path) && before.contains(&b'@')
}

/// Returns whether a path has the form `scheme://...`.
fn is_url(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    is_remote(path)
        && bytes.windows(3).position(|part| part == b"://") == bytes.iter().position(|b| *b == b':')
}

/// Builds the filter from the command line.
fn filter_of(config: &Config) -> Result<Filter, Refusal> {
    let mut given = Patterns::default();
    for file in &config.exclude_from {
        let text = fs::read(file).map_err(|error| Refusal::ExcludeFrom(file.clone(), error))?;
        for (number, line) in (1..).zip(lines(&text)) {
            let at = || format!("line {number} of {}", shown(file));
            given.add(line).map_err(|flaw| Refusal::Exclude(at(), line.to_vec(), flaw))?;
        }
    }
    for pattern in &config.exclude {
        let bare = pattern.trim().trim_start_matches('!').trim_matches('/');
        if bare.is_empty() || pattern.contains('\n') {
            return Err(Refusal::NoPattern(pattern.clone()));
        }
        let pattern = pattern.as_bytes();
        given
            .add(pattern)
            .map_err(|flaw| Refusal::Exclude("--exclude".to_owned(), pattern.to_vec(), flaw))?;
    }
    Ok(Filter::new(given, config.gitignore))
}

impl Checked {
    /// Returns what a preview needs. It creates nothing, and may run beside a writer.
    pub fn into_read_only(self) -> (Roots, Filter) {
        let Self { source, replica, source_id, existing, filter, .. } = self;
        let replica_id = existing.map(|id| replica.id_after_write(id));
        (Roots { source, replica, source_id, replica_id }, filter)
    }

    /// Creates what is missing, and locks the replica.
    ///
    /// # Errors
    /// A [`Refusal`]. The log file and the backup folder may have been created by then. A replica
    /// that was created and is then refused is removed again.
    pub fn prepare(self) -> Result<Prepared, Refusal> {
        let Self { source, replica, source_id, existing, beside, filter, durable } = self;
        let ExtraPaths { log: log_path, backup: backup_path } = beside.clone();
        let existing = existing.map(|id| replica.id_after_write(id));
        let held = existing.map(|id| Lock::take(&id, &replica.path)).transpose()?;
        let log = log_path
            .map(|path| RotatingFile::open(&path).map_err(|error| Refusal::Log(path, error)))
            .transpose()?;
        let backup =
            backup_path.map(|path| open_backup(path, [&source, &replica], durable)).transpose()?;
        if existing.is_none() {
            create(&source, &replica)
                .map_err(|error| Refusal::Create(replica.path.clone(), error))?;
        }
        let replica_id =
            replica.id().map_err(|error| Refusal::FsError(replica.path.clone(), error))?;
        let apart = match existing {
            Some(_) => Ok(()),
            // It may lie elsewhere than its path has suggested.
            None => ensure_apart((&source, &source_id), (&replica, Some(&replica_id)), &beside),
        };
        if let Err(refusal) = apart.and_then(|()| refuse_followed(&replica)) {
            if existing.is_none() {
                let _ = fs::remove_dir(&replica.path);
            }
            return Err(refusal);
        }
        let lock = match held {
            Some(lock) => lock,
            None => Lock::take(&replica_id, &replica.path)?,
        };
        let replica_mount = ReplicaMount::of(&replica, replica_id)
            .map_err(|error| Refusal::FsError(replica.path.clone(), error))?;
        let source_mount = SourceMount::of(&source, source_id);
        let roots = Roots { source, replica, source_id, replica_id: Some(replica_id) };
        Ok(Prepared { roots, source_mount, replica_mount, lock, log, filter, backup, beside })
    }
}

/// Refuses a replica in which symlinks are followed. Only file systems that a program serves are
/// tried: the kernel's own follow none.
///
/// # Errors
/// [`Refusal::FollowsSymlinks`].
pub fn refuse_followed(replica: &Root) -> Result<(), Refusal> {
    let is_followed = || replica.open_replica().is_ok_and(|(dir, _)| follows_symlinks(&dir));
    if replica.foreign_file_system().is_some() && is_followed() {
        return Err(Refusal::FollowsSymlinks(replica.path.clone()));
    }
    Ok(())
}

/// Makes the replica with the source's mode, and the missing directories above it.
fn create(source: &Root, replica: &Root) -> std::io::Result<()> {
    fs::create_dir_all(&replica.path)?;
    fs::set_permissions(&replica.path, fs::metadata(&source.path)?.permissions())
}

/// Makes a path absolute. A `..` is refused if the part before it does not exist: it could lead
/// anywhere.
fn full(path: &Path) -> Result<PathBuf, Refusal> {
    let full = absolute(path).map_err(|error| Refusal::Path(path.into(), error))?;
    let components: Vec<Component> = full.components().collect();
    if let Some(last) = components.iter().rposition(|component| *component == Component::ParentDir)
    {
        let above: PathBuf = components[..=last].iter().collect();
        fs::metadata(above).map_err(|_| Refusal::Dots(path.into()))?;
    }
    Ok(full)
}

fn source_refusal(path: &Path, error: FsError) -> Refusal {
    match error.kind {
        FsErrorKind::NotFound => Refusal::NoSource(path.into()),
        FsErrorKind::NotADirectory => Refusal::SourceNoDir(path.into()),
        _ => Refusal::FsError(path.into(), error),
    }
}

/// Refuses roots that are one directory or lie one in the other, by whatever paths.
fn refuse_nesting(
    source: &Path,
    source_id: &DirId,
    replica: &Path,
    existing: Option<&DirId>,
) -> Result<(), Refusal> {
    if existing.is_some_and(|id| id.same_inode(source_id)) {
        return Err(Refusal::Same(source.into()));
    }
    let (standing, _) = nearest_existing(replica, Side::Replica)
        .map_err(|error| Refusal::FsError(replica.into(), error))?;
    if is_within(&standing, source, source_id, Side::Replica)? {
        return Err(Refusal::ReplicaInSource(replica.into(), source.into()));
    }
    if let Some(id) = existing
        && is_within(source, replica, id, Side::Source)?
    {
        return Err(Refusal::SourceInReplica(source.into(), replica.into()));
    }
    Ok(())
}

/// Refuses a backup folder that is a root or lies in one.
fn refuse_backup_within(backup: &Path, root: &Path, id: Option<&DirId>) -> Result<(), Refusal> {
    let (standing, _) =
        nearest_existing(backup, Side::Backup).map_err(|error| match error.kind {
            FsErrorKind::NotADirectory => Refusal::BackupNoDir(backup.into()),
            _ => Refusal::FsError(backup.into(), error),
        })?;
    let lies_in_it = id.map(|id| is_within(&standing, root, id, Side::Backup)).transpose()?;
    let is_mounted_in_it = id.is_some() && mounts::is_seen_below(&standing, root);
    if lies_in_it == Some(true)
        || is_mounted_in_it
        || real_path(backup)?.starts_with(real_path(root)?)
    {
        Err(Refusal::BackupInRoot(backup.into(), root.into()))
    } else {
        Ok(())
    }
}

/// Opens the backup folder. Makes it if it is missing, for this user alone.
fn open_backup(path: PathBuf, roots: [&Root; 2], durable: bool) -> Result<Arc<Backup>, Refusal> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.map_err(|error| Refusal::Backup(path.clone(), error.to_string()))?;
    let backup = Backup::open(path.clone(), roots.map(Root::clone), durable)
        .map_err(|error| Refusal::Backup(path, format!("{error}{}", advice(&error))))?;
    Ok(Arc::new(backup))
}

fn is_within(dir: &Path, root: &Path, id: &DirId, side: Side) -> Result<bool, Refusal> {
    lies_within(dir, root, id, side).map_err(|error| Refusal::FsError(dir.into(), error))
}

/// Returns the real path of the log file, and the nearest directory above it that exists.
fn log_folder(log: &Path) -> Result<(PathBuf, PathBuf), Refusal> {
    // A symlink at LOG_FILE is followed when it is opened.
    let real = fs::canonicalize(log).unwrap_or_else(|_| log.to_path_buf());
    let folder = real.parent().unwrap_or(Path::new("/"));
    let (standing, _) = nearest_existing(folder, Side::Source)
        .map_err(|error| Refusal::FsError(log.into(), error))?;
    Ok((real, standing))
}

/// Resolves symlinks and `..` in a path, as far as it exists.
fn real_path(path: &Path) -> Result<PathBuf, Refusal> {
    let wrong = |error| Refusal::Path(path.into(), error);
    let (standing, _) = nearest_existing(path, Side::Replica)
        .map_err(|error| Refusal::FsError(path.into(), error))?;
    let missing = path.strip_prefix(&standing).unwrap_or(Path::new(""));
    Ok(fs::canonicalize(&standing).map_err(wrong)?.join(missing))
}

fn refuse_log_in_replica(
    log: &Path,
    replica: &Path,
    existing: Option<&DirId>,
) -> Result<(), Refusal> {
    // It is unknown beforehand where a dangling symlink would create the file.
    if fs::symlink_metadata(log).is_ok() && !fs::exists(log).unwrap_or(false) {
        return Err(Refusal::LogNowhere(log.into()));
    }
    let (real, standing) = log_folder(log)?;
    let inside = match existing {
        Some(id) => is_within(&standing, replica, id, Side::Replica)?,
        None => real_path(real.parent().unwrap_or(&real))?.starts_with(real_path(replica)?),
    };
    if inside { Err(Refusal::LogInReplica(log.into())) } else { Ok(()) }
}

/// Returns whether a path leads through `/proc` to a file that is open already, as `/dev/stdout`
/// does: something else writes to it, too.
fn is_open_file(path: &Path) -> bool {
    let mut at = path.to_path_buf();
    // As many symlinks as the kernel follows.
    for _ in 0..40 {
        let Some(Ok(folder)) = at.parent().map(fs::canonicalize) else { return false };
        if folder.starts_with("/proc") {
            return true;
        }
        let Ok(target) = fs::read_link(&at) else { return false };
        at = folder.join(target);
    }
    false
}

/// Returns the directory and the name of a log file that lies in the source. Neither it nor its
/// rotated copies are mirrored.
fn log_in_source(log: &Path, source_id: &DirId) -> Result<Option<(RelPath, Name)>, Refusal> {
    let (real, standing) = log_folder(log)?;
    let steps = enclosing(&standing, source_id, Side::Source);
    let Some(steps) = steps.map_err(|error| Refusal::FsError(standing.clone(), error))? else {
        return Ok(None);
    };
    let wrong = |error| Refusal::Path(standing.clone(), error);
    let canonical = fs::canonicalize(&standing).map_err(wrong)?;
    let above: Vec<&OsStr> = canonical.iter().collect();
    let missing = real.strip_prefix(&standing).unwrap_or(&real);
    let components =
        above[above.len().saturating_sub(steps)..].iter().copied().chain(missing.iter());
    let path: Vec<u8> = components.map(OsStr::as_bytes).collect::<Vec<_>>().join(&b'/');
    Ok(RelPath::new(&path).and_then(|path| path.split()))
}
