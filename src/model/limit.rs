//! `--max-delete`.

use std::fmt;
use std::str::FromStr;

/// The limit on deletions while the source is not trusted: `--max-delete`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// An exact number of entries. One other rule applies then: deletions are held while a
    /// directory cannot be counted.
    Number(u64),
    /// This share of the replica's entries, in percent; 100 turns the guard off.
    Percent(f64),
}

impl Default for Limit {
    fn default() -> Self {
        Limit::Percent(50.0)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Number(number) => write!(f, "{number}"),
            Limit::Percent(percent) => write!(f, "{percent} %"),
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give a number of entries (200) or a share of the replica (50%)".to_owned();
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
                match percent {
                    0.0 => Ok(Limit::Number(0)),
                    _ if (0.0..=100.0).contains(&percent) => Ok(Limit::Percent(percent)),
                    _ => Err(wrong()),
                }
            }
            None => text.parse().map(Limit::Number).map_err(|_| wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_or_refused() {
        assert_eq!("200".parse(), Ok(Limit::Number(200)));
        assert_eq!("0%".parse(), Ok(Limit::Number(0)));
        assert_eq!("12.5%".parse(), Ok(Limit::Percent(12.5)));
        for wrong in ["", "%", "-1", "101%", "-1%", "half", "NaN%", "1.5"] {
            assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
        }
    }
}
