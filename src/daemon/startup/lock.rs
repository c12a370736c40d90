//! The lock on a replica: one twindir at a time.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use md5::Digest;
use rustix::event::{PollFd, PollFlags, poll};

use super::Refusal;
use crate::daemon::control::ControlServer;
use crate::fs::tree::{DirId, Root, absolute};
use crate::model::entry::Md5;
use crate::model::error::Side;

/// The lock that keeps a second twindir off the replica, for as long as this lives. It also answers
/// requests.
///
/// It is a socket with an abstract name, made of the replica's inode. All users of the machine see
/// it, and it lies in no folder that somebody may clean. The kernel releases it when the process
/// ends, however it ends. See unix(7). Further sockets have names made of the replica's path, for
/// requests while the replica is missing.
pub struct Lock {
    name: String,
    sockets: Vec<UnixListener>,
    desk: Option<ControlServer>,
    answering: Option<JoinHandle<()>>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        for socket in &self.sockets {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        if let Some(answering) = self.answering.take() {
            let _ = answering.join();
        }
    }
}

/// Returns the socket names of the twindir that keeps a replica. The first one is made of the path
/// alone. The others ask the replica's disk which directory it is, and so may take for ever if that
/// does not answer: they are made only when they are asked for.
pub fn socket_names(replica: &Path) -> impl Iterator<Item = String> {
    let full = absolute(replica);
    let first = path_name(&full);
    let of_disk = move || {
        let id = Root::new(&full, Side::Replica).id().ok();
        id.map(|id| name_of(&id)).into_iter().chain(path_names(&full).into_iter().skip(1))
    };
    std::iter::once(first).chain(std::iter::once_with(of_disk).flatten())
}

fn name_of(replica: &DirId) -> String {
    format!("twindir-replica-{}", replica.label())
}

/// Returns names made of a path, as it is given and without symlinks.
fn path_names(path: &Path) -> Vec<String> {
    let mut names = vec![path_name(path)];
    names.extend(path.canonicalize().ok().map(|real| path_name(&real)));
    names.dedup();
    names
}

fn path_name(path: &Path) -> String {
    let digest = md5::Md5::digest(path.as_os_str().as_bytes());
    format!("twindir-path-{}", Md5(digest.into()))
}

impl Lock {
    /// Locks the replica, which is at `path`.
    ///
    /// # Errors
    /// [`Refusal::Locked`] with the pid and the user of the process that holds the lock;
    /// [`Refusal::Lock`] if no socket can be made.
    pub fn take(replica: &DirId, path: &Path) -> Result<Self, Refusal> {
        let mut lock = Self::take_directory(replica, path)?;
        lock.bind_path(path);
        Ok(lock)
    }

    /// Adds the sockets with names made of the path. If another twindir has one of these names,
    /// only requests by this path fail.
    fn bind_path(&mut self, path: &Path) {
        self.sockets.extend(path_names(path).into_iter().filter_map(|name| {
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()
        }));
    }

    fn take_directory(replica: &DirId, path: &Path) -> Result<Self, Refusal> {
        let wrong = |error| Refusal::Lock(path.into(), error);
        let name = name_of(replica);
        let address = SocketAddr::from_abstract_name(&name).map_err(wrong)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { name, sockets: vec![socket], desk: None, answering: None }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let holder = UnixStream::connect_addr(&address)
                    .ok()
                    .and_then(|stream| rustix::net::sockopt::socket_peercred(&stream).ok());
                let who = holder.map_or("pid unknown".to_owned(), |holder| {
                    format!("pid {}, of user {}", holder.pid.as_raw_nonzero(), holder.uid.as_raw())
                });
                Err(Refusal::Locked(path.into(), who))
            }
            Err(error) => Err(wrong(error)),
        }
    }

    /// Locks another directory, and then releases the old one. A directory that was made again may
    /// have the label of the old one, if its file system stores no birth times: then nothing
    /// changes.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn pass_on(&mut self, replica: &DirId, path: &Path) -> Result<(), Refusal> {
        if !self.name.ends_with(&replica.label()) {
            let other = Self::take_directory(replica, path)?;
            let desk = self.desk.take();
            *self = other;
            self.bind_path(path);
            if let Some(desk) = desk {
                self.answer_by(desk);
            }
        }
        Ok(())
    }

    /// Answers requests by `desk`, in a thread of its own.
    pub fn answer_by(&mut self, desk: ControlServer) {
        let sockets: Vec<_> =
            self.sockets.iter().filter_map(|socket| socket.try_clone().ok()).collect();
        self.desk = Some(desk.clone());
        let builder = std::thread::Builder::new().name("twindir-control".into());
        // If no thread can be started, only requests are not answered.
        self.answering = builder.spawn(move || answer(&sockets, &desk)).ok();
    }
}

/// The pause after a request that could not be accepted.
const BREATH: Duration = Duration::from_millis(100);

/// Accepts requests until the sockets are shut down.
fn answer(sockets: &[UnixListener], desk: &ControlServer) {
    while !sockets.is_empty() {
        let mut fds: Vec<_> =
            sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP)) {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (socket, _) in sockets.iter().zip(ready).filter(|(_, is_ready)| *is_ready) {
            match socket.accept() {
                Ok((stream, _)) => desk.serve(stream),
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return,
                // Perhaps no descriptor is free.
                Err(_) => std::thread::sleep(BREATH),
            }
        }
    }
}
