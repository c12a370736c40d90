//! The one writer: all that becomes visible in the replica is done here (I1).

pub mod fs;
