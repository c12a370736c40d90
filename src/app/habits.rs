//! Answers to command lines that would be right for another tool.

use std::path::Path;

use crate::model::config::parse_interval;

/// Options of other tools, and what to answer to them.
const ANSWERS: [(&[&str], &str); 8] = [
    // Who left it out would lose the dry run.
    (
        &["-avn", "-an", "-rn", "-avzn", "-navz", "-nav", "-na"],
        "twindir always copies as -a does: give -n alone for the dry run",
    ),
    (
        &["--delete", "--delete-after", "--delete-before", "--delete-during", "--mirror"],
        "twindir always deletes from REPLICA what SOURCE does not have: leave it out",
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
        "twindir always keeps modes, times, owners where it may, attributes and ACLs: leave it out",
    ),
    (&["-r", "--recursive", "-R"], "twindir always mirrors all that SOURCE holds: leave it out"),
    (
        &["--watch", "-w", "--monitor", "--daemon"],
        "twindir watches SOURCE anyway, unless --once or --interval-only is given: leave it out",
    ),
    (
        &["--progress", "-P", "--info=progress2"],
        "twindir always shows the progress on a terminal, and --status asks for it: leave it out",
    ),
    (
        &["--include"],
        "write --exclude '!PATTERN' instead, after the pattern that it is an exception to",
    ),
    (
        &["-z", "--compress", "-u", "--update", "-x", "--one-file-system", "-H", "--hard-links"],
        "twindir has no such option: see `twindir --help`",
    ),
];

/// Returns the answer to the first option that another tool has. `None` if none is given.
pub fn answer_to_habits(args: &[String]) -> Option<String> {
    let mut given = args.iter().take_while(|arg| *arg != "--");
    let known = |arg: &String| {
        let name = arg.split('=').next().unwrap_or(arg);
        let is_it = |names: &[&str]| names.contains(&arg.as_str()) || names.contains(&name);
        let (_, answer) = ANSWERS.iter().find(|(names, _)| is_it(names))?;
        Some(format!("{arg}: {answer}"))
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
