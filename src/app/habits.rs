//! Answers to command lines that would be right for another tool.

use std::path::Path;

use crate::model::config::parse_interval;

/// Options of other tools for things that twindir always does.
const DONE_ANYWAY: [(&[&str], &str); 4] = [
    (
        &["--delete", "--delete-after", "--delete-before", "--delete-during", "--mirror"],
        "deletes from REPLICA what SOURCE does not have",
    ),
    (
        &[
            "-a",
            "--archive",
            "-av",
            "-avz",
            "-avh",
            "-aP",
            "-rv",
            "-rav",
            "--times",
            "--perms",
            "--owner",
            "--group",
        ],
        "keeps modes, times, owners where it may, attributes and ACLs",
    ),
    (&["-r", "--recursive", "-R"], "mirrors all that SOURCE holds"),
    (
        &["--watch", "-w", "--monitor", "--daemon"],
        "watches SOURCE, unless --once or --interval-only is given",
    ),
];

/// Returns the answer to the first option for a thing that twindir always does. `None` if no such
/// option is given.
pub fn answer_to_habits(args: &[String]) -> Option<String> {
    let mut given = args.iter().take_while(|arg| *arg != "--");
    let known = |arg: &String| {
        let (_, what) = DONE_ANYWAY.iter().find(|(names, _)| names.contains(&arg.as_str()))?;
        Some(format!("twindir {what} without being asked: leave {arg} out"))
    };
    given.find_map(known)
}

/// Recognises the order `LOG SOURCE REPLICA INTERVAL`, which some scripts use. `args` are arguments
/// that could not be parsed. Returns the command line in the right order.
pub fn suggest_order(args: &[String]) -> Option<String> {
    let [log, source, replica, interval] = args else { return None };
    let swapped = !args.iter().any(|arg| arg.starts_with('-'))
        && parse_interval(interval).is_ok()
        && parse_interval(replica).is_err()
        && !Path::new(log).is_dir();
    swapped.then(|| format!("twindir {source} {replica} {interval} {log}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_another_script_is_known() {
        let order = |args: &[&str]| {
            suggest_order(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            order(&["log.txt", "src", "dst", "60"]),
            Some("twindir src dst 60 log.txt".into())
        );
        assert_eq!(order(&["src", "dst", "60", "log.txt"]), None);
        assert_eq!(order(&["src", "dst", "sixty", "log.txt"]), None);
        assert_eq!(order(&["src", "dst"]), None);
    }
}
