//! The command line: any arguments are parsed or refused.

use std::time::Duration;

use clap::Parser;
use proptest::collection::vec;
use proptest::prelude::*;

use super::holds;
use crate::app::cli::Args;
use crate::app::habits::suggest_order;
use crate::model::config::{
    LONGEST_DEBOUNCE, LONGEST_INTERVAL, SHORTEST, parse_debounce, parse_interval,
};
use crate::model::limit::Limit;

/// Options and values that are often valid together.
fn argument() -> impl Strategy<Value = String> {
    let known = [
        "-i",
        "-l",
        "-n",
        "-v",
        "-q",
        "-vq",
        "-i5",
        "--",
        "-",
        "",
        "--once",
        "--dry-run",
        "--check",
        "--quick",
        "--interval",
        "--interval=1h",
        "--log-file",
        "--interval-only",
        "--no-watch",
        "--debounce",
        "--debounce=-1",
        "--exclude",
        "--exclude=*.o",
        "--exclude-from",
        "--gitignore",
        "--no-create",
        "--max-delete",
        "--max-delete=20%",
        "--threads",
        "--threads=0",
        "--threads=3",
        "--log-format",
        "--log-format=json",
        "--help",
        "--version",
        "source",
        "replica",
        "60",
        "0.5",
        "90s",
        "-5",
        "NaN",
        "1e300",
        "10%",
        "json",
        "text",
    ];
    prop_oneof![4 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,8}"]
}

#[test]
fn any_arguments_make_a_config_or_are_refused() {
    holds(&vec(argument(), 0..8), |args| {
        let _ = suggest_order(&args);
        let Ok(args) = Args::try_parse_from(std::iter::once("twindir".to_owned()).chain(args))
        else {
            return;
        };
        let config = args.into_config();
        assert!((SHORTEST..=LONGEST_INTERVAL).contains(&config.interval));
        assert!(config.debounce <= LONGEST_DEBOUNCE && config.threads > 0);
        assert!((-1..=1).contains(&config.verbosity));
    });
}

/// Numbers with and without units, and text that only looks like one.
fn time() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?[0-9]{0,20}(\\.[0-9]{0,12})?(e[0-9]{1,4})?",
        "([0-9]{1,9} ?(ms|s|m|h|d|y) ?){1,4}",
        ".{0,12}"
    ]
}

#[test]
fn any_time_is_within_its_bounds_or_is_refused() {
    holds(&time(), |text| {
        assert!(
            parse_interval(&text).is_ok_and(|time| (SHORTEST..=LONGEST_INTERVAL).contains(&time))
                || parse_interval(&text).is_err()
        );
        assert!(
            parse_debounce(&text).is_ok_and(|time| time <= LONGEST_DEBOUNCE)
                || parse_debounce(&text).is_err()
        );
    });
}

#[test]
fn a_time_in_milliseconds_is_read_as_it_was_written() {
    let longest = u64::try_from(LONGEST_INTERVAL.as_millis()).unwrap();
    holds(&(0..=longest), |millis| {
        let time = Duration::from_millis(millis);
        let written = [format!("{millis}ms"), format!("{}.{:03}", millis / 1_000, millis % 1_000)];
        for text in written {
            // Seconds are parsed as a float.
            let is_read = |read: Result<Duration, String>| {
                read.is_ok_and(|read| read.abs_diff(time) < Duration::from_micros(1))
            };
            assert_eq!(is_read(parse_interval(&text)), time >= SHORTEST, "{text}");
            assert_eq!(is_read(parse_debounce(&text)), time <= LONGEST_DEBOUNCE, "{text}");
        }
    });
}

#[test]
fn any_limit_of_deletions_is_a_number_or_a_share_or_is_refused() {
    holds(&prop_oneof!["-?[0-9]{0,22}%?", "-?[0-9]{0,3}\\.[0-9]{0,3} ?%", ".{0,8}%?"], |text| {
        match text.parse() {
            Ok(Limit::Number(number)) => {
                let is_zero_share = number == 0 && text.ends_with('%');
                assert!(
                    is_zero_share || text.trim_start_matches('+').parse() == Ok(number),
                    "{text}"
                );
            }
            Ok(Limit::Percent(share)) => assert!(share > 0.0 && share <= 100.0, "{text}"),
            Err(why) => assert!(why.contains("50%")),
        }
    });
    holds(&any::<u64>(), |number| {
        assert_eq!(number.to_string().parse(), Ok(Limit::Number(number)));
    });
}
