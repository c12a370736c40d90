//! The start of a run: resolves both roots, refuses what cannot be mirrored safely, and pins
//! what will be.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf, absolute};

use rustix::io::Errno;

use crate::config::Config;
use crate::filter::Filter;
use crate::mounts::Place;
use crate::path::{Name, RelPath};
use crate::reconcile::Roots;
use crate::report::RotatingFile;
use crate::tree::{Fault, Pin, Root, Where, enclosing, nearest_existing};

/// Why a run is refused: what is wrong, and what to do. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the source {} does not exist: check the spelling, or mount its disk first", .0.display())]
    NoSource(PathBuf),
    #[error("the source {} is not a directory: twindir mirrors directories", .0.display())]
    SourceNoDir(PathBuf),
    #[error("the replica {} is not a directory: name a directory, or a path where one can be created", .0.display())]
    ReplicaNoDir(PathBuf),
    #[error("the replica {} does not exist, and --no-create forbids to create it", .0.display())]
    NoReplica(PathBuf),
    #[error("source and replica are the same directory ({}): name two different ones", .0.display())]
    Same(PathBuf),
    #[error("the replica {} lies inside the source {}: it would be copied into itself; put it elsewhere", .0.display(), .1.display())]
    ReplicaInSource(PathBuf, PathBuf),
    #[error("the source {} lies inside the replica {}: it would be deleted as a stranger there; put the replica elsewhere", .0.display(), .1.display())]
    SourceInReplica(PathBuf, PathBuf),
    #[error("the log file {} lies inside the replica, which holds nothing but the source's entries: put it elsewhere", .0.display())]
    LogInReplica(PathBuf),
    #[error("cannot write the log file {}: {}; name a file that can be created or appended to", .0.display(), .1)]
    Log(PathBuf, std::io::Error),
    #[error("cannot create the replica {}: {}", .0.display(), .1)]
    Create(PathBuf, std::io::Error),
    #[error("another twindir (pid {}) keeps the replica {} already: stop that one first", .1, .0.display())]
    Locked(PathBuf, String),
    #[error("cannot lock the replica by the file {}: {}", .0.display(), .1)]
    Lock(PathBuf, std::io::Error),
    #[error("{}: {}", .0.display(), .1)]
    Fault(PathBuf, Fault),
    #[error("{}: {}", .0.display(), .1)]
    Path(PathBuf, std::io::Error),
}

/// What a run begins with.
pub struct Prepared {
    pub roots: Roots,
    pub home: Home,
    pub lock: Lock,
    pub log: Option<RotatingFile>,
    pub filter: Filter,
}

/// Checks everything before anything is created.
///
/// # Errors
/// A [`Refusal`]; nothing was created or changed then, unless creating was what failed.
pub fn prepare(config: &Config) -> Result<Prepared, Refusal> {
    let source = Root { path: full(&config.source)?, side: Where::Source };
    let replica = Root { path: full(&config.replica)?, side: Where::Replica };
    let source_pin = source.pin().map_err(|fault| source_refusal(&source.path, fault))?;
    let existing = match replica.pin() {
        Ok(pin) => Some(pin),
        Err(fault) if fault.is_absence() => None,
        Err(fault) if fault.errno == Errno::NOTDIR => return Err(Refusal::ReplicaNoDir(replica.path)),
        Err(fault) => return Err(Refusal::Fault(replica.path, fault)),
    };
    refuse_nesting(&source.path, &source_pin, &replica.path, existing.as_ref())?;
    if existing.is_none() && !config.create {
        return Err(Refusal::NoReplica(replica.path));
    }
    let log_path = config.log_file.as_deref().map(full).transpose()?;
    let filter = match &log_path {
        Some(log) => refuse_log_in_replica(log, &replica.path, existing.as_ref())
            .and_then(|()| log_in_source(log, &source_pin))?,
        None => Filter::default(),
    };
    let held = existing.map(|pin| Lock::take(&pin, &replica.path)).transpose()?;
    let log = log_path
        .map(|path| RotatingFile::open(&path).map_err(|error| Refusal::Log(path, error)))
        .transpose()?;
    let home = Home::of(&replica)?;
    if existing.is_none() {
        fs::create_dir_all(&replica.path).map_err(|error| Refusal::Create(replica.path.clone(), error))?;
    }
    let replica_pin = replica.pin().map_err(|fault| Refusal::Fault(replica.path.clone(), fault))?;
    let lock = match held {
        Some(lock) => lock,
        None => Lock::take(&replica_pin, &replica.path)?,
    };
    let roots = Roots { source, replica, source_pin, replica_pin };
    Ok(Prepared { roots, home, lock, log, filter })
}

fn full(path: &Path) -> Result<PathBuf, Refusal> {
    absolute(path).map_err(|error| Refusal::Path(path.into(), error))
}

fn source_refusal(path: &Path, fault: Fault) -> Refusal {
    match fault.errno {
        Errno::NOENT => Refusal::NoSource(path.into()),
        Errno::NOTDIR => Refusal::SourceNoDir(path.into()),
        _ => Refusal::Fault(path.into(), fault),
    }
}

/// Refuses roots that are one directory or lie one in the other, by whatever names.
fn refuse_nesting(
    source: &Path,
    source_pin: &Pin,
    replica: &Path,
    existing: Option<&Pin>,
) -> Result<(), Refusal> {
    if existing.is_some_and(|pin| pin.same_inode(source_pin)) {
        return Err(Refusal::Same(source.into()));
    }
    let (standing, _) =
        nearest_existing(replica, Where::Replica).map_err(|fault| Refusal::Fault(replica.into(), fault))?;
    // Upwards by `..`, and by the places on the file system, which bind mounts do not hide.
    let places = (Place::of(source), Place::of(&standing));
    let within = |above: &Option<Place>, below: &Option<Place>| matches!((above, below), (Some(above), Some(below)) if below.is_within(above));
    if climb(&standing, source_pin, Where::Replica)?.is_some() || within(&places.0, &places.1) {
        return Err(Refusal::ReplicaInSource(replica.into(), source.into()));
    }
    if let Some(pin) = existing
        && (climb(source, pin, Where::Source)?.is_some() || within(&places.1, &places.0))
    {
        return Err(Refusal::SourceInReplica(source.into(), replica.into()));
    }
    Ok(())
}

fn climb(path: &Path, root: &Pin, side: Where) -> Result<Option<usize>, Refusal> {
    enclosing(path, root, side).map_err(|fault| Refusal::Fault(path.into(), fault))
}

/// The nearest directory that exists above the log file, where the log file really lies.
fn log_folder(log: &Path) -> Result<(PathBuf, PathBuf), Refusal> {
    // A symlink at LOG_FILE is followed when it is opened.
    let real = fs::canonicalize(log).unwrap_or_else(|_| log.to_path_buf());
    let folder = real.parent().unwrap_or(Path::new("/"));
    let (standing, _) =
        nearest_existing(folder, Where::Source).map_err(|fault| Refusal::Fault(log.into(), fault))?;
    Ok((real, standing))
}

fn refuse_log_in_replica(log: &Path, replica: &Path, existing: Option<&Pin>) -> Result<(), Refusal> {
    let (real, standing) = log_folder(log)?;
    let inside = match existing {
        Some(pin) => climb(&standing, pin, Where::Replica)?.is_some(),
        None => real.starts_with(replica) || log.starts_with(replica),
    };
    if inside { Err(Refusal::LogInReplica(log.into())) } else { Ok(()) }
}

/// A log file inside the source is not mirrored, nor are its numbered elders.
fn log_in_source(log: &Path, source_pin: &Pin) -> Result<Filter, Refusal> {
    let (real, standing) = log_folder(log)?;
    let Some(steps) = climb(&standing, source_pin, Where::Source)? else { return Ok(Filter::default()) };
    let wrong = |error| Refusal::Path(standing.clone(), error);
    let canonical = fs::canonicalize(&standing).map_err(wrong)?;
    let above: Vec<&OsStr> = canonical.iter().collect();
    let missing = real.strip_prefix(&standing).unwrap_or(&real);
    let components = above[above.len().saturating_sub(steps)..].iter().copied().chain(missing.iter());
    let path: Vec<u8> = components.map(OsStr::as_bytes).collect::<Vec<_>>().join(&b'/');
    let place: Option<(RelPath, Name)> = RelPath::new(&path).and_then(|path| path.split());
    Ok(Filter { log: place })
}

/// What is known of the replica's place, so that it can be made again when it is deleted, and
/// is not when its disk is unplugged.
#[derive(Clone, Debug)]
pub struct Home {
    /// The nearest directory above the replica that existed at the start.
    standing: PathBuf,
    mount: Pin,
    was_mount_point: bool,
}

impl Home {
    fn of(replica: &Root) -> Result<Self, Refusal> {
        let parent = replica.path.parent().unwrap_or(Path::new("/"));
        let (standing, mount) = nearest_existing(parent, Where::Replica)
            .map_err(|fault| Refusal::Fault(replica.path.clone(), fault))?;
        let was_mount_point = replica.pin().is_ok_and(|pin| pin.is_mount_root);
        Ok(Self { standing, mount, was_mount_point })
    }

    /// Whether a replica that is gone was deleted, and may be made again: the file system that
    /// held it is still there.
    pub fn may_create(&self, replica: &Path) -> bool {
        let parent = replica.parent().unwrap_or(Path::new("/"));
        let above = nearest_existing(parent, Where::Replica);
        !self.was_mount_point
            && above.is_ok_and(|(path, pin)| {
                pin.same_mount(&self.mount)
                    && (path.starts_with(&self.standing) || self.standing.starts_with(path))
            })
    }
}

/// Keeps a second twindir off the replica, for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock that is named after the replica's inode. The kernel gives it up when the
    /// process ends, however it ends.
    ///
    /// # Errors
    /// [`Refusal::Locked`] with the pid of the process that has it.
    pub fn take(replica: &Pin, path: &Path) -> Result<Self, Refusal> {
        let folder = runtime_folder();
        let lock_path = folder.join(format!("replica-{:x}-{:x}.lock", replica.dev, replica.ino));
        let wrong = |error| Refusal::Lock(lock_path.clone(), error);
        make_private(&folder).map_err(wrong)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(wrong)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
                return Err(Refusal::Locked(path.into(), pid.to_owned()));
            }
            Err(fs::TryLockError::Error(error)) => return Err(wrong(error)),
        }
        file.set_len(0).map_err(wrong)?;
        writeln!(file, "{}", std::process::id()).map_err(wrong)?;
        Ok(Self { _file: file })
    }
}

/// A folder of this user alone that does not outlive the machine's run, where there is one.
fn runtime_folder() -> PathBuf {
    let uid = rustix::process::geteuid();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let usual = PathBuf::from(format!("/run/user/{}", uid.as_raw()));
    let mine =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid.as_raw());
    if let Some(folder) = named.into_iter().chain([usual]).find(mine) {
        return folder.join("twindir");
    }
    if uid.is_root() {
        return PathBuf::from("/run/twindir");
    }
    std::env::temp_dir().join(format!("twindir-{}", uid.as_raw()))
}

/// Makes a folder for this user alone. One that somebody else has put there is refused.
fn make_private(folder: &Path) -> std::io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(folder)?;
    if !meta.is_dir()
        || meta.uid() != rustix::process::geteuid().as_raw()
        || meta.permissions().mode() & 0o022 != 0
    {
        let message = format!("{} belongs to somebody else, or others can write to it", folder.display());
        return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, message));
    }
    Ok(())
}
