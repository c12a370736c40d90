//! Problems: entries that could not be handled, and their log lines.

use std::fmt;
use std::time::Duration;

use super::advice;
use crate::model::error::{FsError, FsErrorKind, WorkError};
use crate::model::human::human_duration;
use crate::model::path::{Name, RelPath};
use crate::plan::failures::Failure;

/// An entry that could not be handled. The replica's old entry stays, and the path is checked again
/// (I10).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub path: RelPath,
    pub cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    FsError(FsError),
    /// The entry changed while it was copied or compared.
    Changing,
    /// A directory that cannot be widened yet: its replica holds entries that the source lacks, or
    /// that fewer users may see there.
    PendingWiden,
    /// The replica's file system does not distinguish its name from this other name of the source.
    Collides(Name),
    /// A removed entry could not be deleted completely: something remains under a temporary name.
    TrashRemains(FsError),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FsError(error) => write!(f, "{error}{}", advice(error)),
            Self::Changing => f.write_str("it changes all the time while it is read"),
            Self::PendingWiden => f.write_str(
                "it stays restricted, since the replica's holds entries that the source does not have, or restricts more",
            ),
            Self::Collides(other) => {
                write!(f, "the replica's file system takes this name for that of {other}")
            }
            Self::TrashRemains(error) => {
                write!(f, "what was removed cannot be deleted: {error}{}", advice(error))
            }
        }
    }
}

impl Problem {
    /// Makes a problem of an error. `None` if the work was only cancelled.
    pub fn from_work_error(path: RelPath, work_error: WorkError) -> Option<Self> {
        match work_error {
            WorkError::FsError(error) => Some(Self { path, cause: Cause::FsError(error) }),
            WorkError::Changed => Some(Self { path, cause: Cause::Changing }),
            WorkError::Cancelled => None,
        }
    }

    /// Returns the kind of failure, which decides when it is retried and reported.
    pub fn failure_kind(&self) -> Failure {
        let Cause::FsError(error) = self.cause else { return Failure::Entry };
        match error.kind {
            FsErrorKind::AppendOnlyDir => Failure::AppendOnly,
            FsErrorKind::AppendOnlyMetadata => Failure::AppendOnlyDir,
            _ => Failure::Entry,
        }
    }

    /// Returns the error if it means that the replica or the backup is out of space.
    pub fn out_of_space(&self) -> Option<FsError> {
        match self.cause {
            Cause::FsError(error) if error.is_out_of_space() => Some(error),
            _ => None,
        }
    }

    /// Logs the beginning of the problem. `retry`: the time until the retry, or `None` if only the
    /// next run tries again.
    pub fn log(&self, retry: Option<Duration>) {
        let retry = match retry {
            Some(wait) => format!("will try again in {}", human_duration(wait)),
            None => "it is left to the next run".to_owned(),
        };
        match &self.cause {
            Cause::FsError(error) => {
                let advice = advice(error);
                tracing::error!(
                    op = "problem",
                    path = %self.path,
                    "{error}; left the replica as it was, {retry}{advice}",
                );
            }
            Cause::Collides(other) => tracing::error!(
                op = "problem",
                path = %self.path,
                "the replica's file system takes this name for that of {other}, which is mirrored instead; {retry} \
                 (rename one of them in the source)",
            ),
            Cause::TrashRemains(error) => {
                let advice = advice(error);
                tracing::error!(
                    op = "problem",
                    path = %self.path,
                    "what lies here under a temporary name was removed and cannot be deleted: {error}; {retry}{advice}",
                );
            }
            Cause::PendingWiden => tracing::error!(
                op = "problem",
                path = %self.path,
                "it stays restricted in the replica, since it holds entries there that the source does not have, \
                 or restricts more; {retry} (see the problems below it, and what is excluded there)",
            ),
            Cause::Changing => tracing::error!(
                op = "problem",
                path = %self.path,
                "it changes all the time while it is read; the replica keeps the whole old version, {retry}",
            ),
        }
    }
}
