//! The clock of the system, by which file systems set times.

use std::time::Duration;

use crate::model::entry::Time;

pub fn now() -> Time {
    ago(Duration::ZERO)
}

/// The time that was `span` ago.
pub fn ago(span: Duration) -> Time {
    let then = jiff::Timestamp::now().checked_sub(span).unwrap_or(jiff::Timestamp::MIN);
    Time { sec: then.as_second(), nsec: then.subsec_nanosecond().unsigned_abs() }
}
