//! The names of a rotated log: `LOG_FILE`, and `LOG_FILE.1` to `LOG_FILE.10`.

/// Number of rotated logs that are kept beside `LOG_FILE`.
pub const KEPT: u32 = 10;

/// Returns whether `name` is the log's name or that of one of its rotated copies (.1 to .10).
pub fn is_log_name(name: &[u8], log: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(log) else { return false };
    match rest {
        [] => true,
        [b'.', digits @ ..] => {
            let number =
                std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok());
            digits.first() != Some(&b'0')
                && number.is_some_and(|number| (1..=KEPT).contains(&number))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_and_its_elders_are_known_by_name() {
        for yes in ["run.log", "run.log.1", "run.log.10"] {
            assert!(is_log_name(yes.as_bytes(), b"run.log"), "{yes}");
        }
        for no in
            ["run.log.11", "run.log.01", "run.log.0", "run.log.old", "run.logs", "run", "run.log."]
        {
            assert!(!is_log_name(no.as_bytes(), b"run.log"), "{no}");
        }
    }
}
