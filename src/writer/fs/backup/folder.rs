//! The folders of a backup, and the times in their names.

use std::time::Duration;

use jiff::Zoned;

use crate::fs::tree::ReplicaDir;
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::path::Name;

/// Local time, to the millisecond, and its offset from UTC.
const FORMAT: &str = "twindir-%Y-%m-%dT%H-%M-%S%.3f%z";

/// Makes a folder that is named after the current time. No other user may look into it: its entries
/// may have been hidden by the mode of a directory above them.
pub(super) fn begin(root: &ReplicaDir) -> Result<Name, FsError> {
    loop {
        let name = name_of(&Zoned::now());
        match root.make_dir(&name) {
            // Another one was made in this millisecond.
            Err(error) if error.kind == FsErrorKind::Exists => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.map(|()| name),
        }
    }
}

fn name_of(time: &Zoned) -> Name {
    let name = time.strftime(FORMAT).to_string();
    Name::new(name.as_bytes()).expect("a time has no slash")
}

/// Returns how long ago a folder was begun; `None` if [`begin`] has not given this name, or its
/// time is in the future.
pub(super) fn age(name: &Name) -> Option<Duration> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let begun = Zoned::strptime(FORMAT, text).ok()?;
    let is_ours = name_of(&begun) == *name;
    let age = Zoned::now()
        .timestamp()
        .as_millisecond()
        .checked_sub(begun.timestamp().as_millisecond())?;
    is_ours.then_some(Duration::from_millis(age.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::name;

    #[test]
    fn the_age_of_a_folder_is_told_by_its_name() {
        let hours = 3;
        let begun = Zoned::now().checked_sub(jiff::Span::new().hours(hours)).unwrap();
        let age = age(&name_of(&begun)).unwrap();
        let wanted = Duration::from_secs(3600 * u64::try_from(hours).unwrap());
        assert!(age >= wanted && age < wanted + Duration::from_secs(60), "{age:?}");
    }

    #[test]
    fn other_names_have_no_age() {
        for other in [
            "2020-01-01T00-00-00.000+0000",
            "twindir-2020-01-01T00-00-00.000",
            "twindir-2020-01-01",
            "twindir-2020-01-01T00-00-00",
            "twindir-2020-01-01T00-00-00.0000+0000",
            "twindir-2020-13-01T00-00-00.000+0000",
            "twindir-2020-01-01T00-00-00.000+0000.old",
            "twindir-2020-1-1T0-0-0.000+0000",
            "twindir-2999-01-01T00-00-00.000+0000",
        ] {
            assert_eq!(age(&name(other)), None, "{other}");
        }
        for ours in ["+0000", "+0530", "-0800"] {
            assert!(
                age(&name(&format!("twindir-2020-01-01T00-00-00.000{ours}"))).is_some(),
                "{ours}"
            );
        }
    }
}
