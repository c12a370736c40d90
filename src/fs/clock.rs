//! The system clock, by which file systems set times.

use crate::model::entry::Time;

pub fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time { sec: now.as_second(), nsec: now.subsec_nanosecond().unsigned_abs() }
}
