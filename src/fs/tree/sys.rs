//! The system calls on entries: those of rustix. In unit tests, a plan can make them fail.

#[cfg(not(test))]
pub use rustix::fs::{
    RawDir, chmod, chownat, copy_file_range, fchmod, fchown, fdatasync, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, ftruncate, futimens, ioctl_ficlone, lgetxattr, linkat, mkdirat,
    openat, openat2, readlinkat, renameat, renameat_with, seek, statx, symlinkat, unlinkat,
    utimensat,
};
#[cfg(not(test))]
pub use rustix::io::{pread, pwrite};

#[cfg(test)]
mod faulty;
#[cfg(test)]
mod plan;

#[cfg(test)]
pub use faulty::*;
#[cfg(test)]
pub use plan::InjectedErrors;
