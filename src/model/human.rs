//! Numbers, sizes and times for people.

use std::time::Duration;

/// Formats a number with its noun, `one` in the singular and `more` in the plural.
pub fn counted(number: u64, one: &str, more: &str) -> String {
    format!("{} {}", with_separators(number), if number == 1 { one } else { more })
}

/// Formats a number with thousands separators: `2,000`.
pub fn with_separators(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number of bytes in powers of 1000: `0 B`, `12.3 kB`, `4.0 GB`.
pub fn human_bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        // 999.95 would be shown as 1000.0.
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Formats a duration: `0.3 s`, `60 s`, `10 min`, `1 h`, `2 days`. Minutes are used from two minutes
/// on, hours and days if they are whole.
pub fn human_duration(time: Duration) -> String {
    let (seconds, whole) = (time.as_secs_f64(), time.as_secs());
    if time < Duration::from_micros(1) {
        return format!("{} ns", time.as_nanos());
    }
    match time.as_millis() {
        172_800_000.. if whole.is_multiple_of(86_400) => format!("{} days", whole / 86_400),
        3_600_000.. if whole.is_multiple_of(3_600) => format!("{} h", whole / 3_600),
        120_000.. => format!("{:.0} min", seconds / 60.0),
        millis @ 1.. => format!("{} s", millis as f64 / 1_000.0),
        0 => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_in_threes() {
        for (number, text) in [(0, "0"), (999, "999"), (2_000, "2,000"), (1_234_567, "1,234,567")] {
            assert_eq!(with_separators(number), text);
        }
    }

    #[test]
    fn times_are_said_as_one_says_them() {
        for (nanos, text) in [
            (100, "100 ns"),
            (10_000, "0.00001 s"),
            (300_000_000, "0.3 s"),
            (1_010_436_632, "1.01 s"),
            (60_000_000_000, "60 s"),
            (600_000_000_000, "10 min"),
            (3_600_000_000_000, "1 h"),
            (5_400_000_000_000, "90 min"),
            (604_800_000_000_000, "7 days"),
        ] {
            assert_eq!(human_duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn bytes_are_said_in_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (12_345, "12.3 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
