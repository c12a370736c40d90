//! The lock on a replica: one twindir at a time.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use super::Refusal;
use crate::fs::tree::DirId;

/// Keeps a second twindir off the replica, for as long as this lives.
///
/// It is a socket with an abstract name made of the replica's inode: seen by all users of the
/// machine, bound to no folder that somebody may clean, and given up by the kernel when the
/// process ends, however it ends. See unix(7).
#[derive(Debug)]
pub struct Lock {
    name: String,
    _socket: UnixListener,
}

impl Lock {
    /// # Errors
    /// [`Refusal::Locked`] with the pid of the process that has it.
    pub fn take(replica: &DirId, path: &Path) -> Result<Self, Refusal> {
        let wrong = |error| Refusal::Lock(path.into(), error);
        let name = format!("twindir-replica-{}", replica.label());
        let address = SocketAddr::from_abstract_name(&name).map_err(wrong)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { name, _socket: socket }),
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

    /// Takes the lock for another directory; the old one is given up then. A directory that was
    /// made anew may have the label of the old one, where its file system keeps no birth times.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn pass_on(&mut self, replica: &DirId, path: &Path) -> Result<(), Refusal> {
        if !self.name.ends_with(&replica.label()) {
            *self = Self::take(replica, path)?;
        }
        Ok(())
    }
}
