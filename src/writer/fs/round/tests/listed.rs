//! A file that a walk has listed as missing in the replica is copied without another check. Changes
//! since then are noticed all the same.

use super::*;

/// Makes the work of checking names that a walk has listed so.
fn listed(names: &[&str]) -> Work {
    let mut work = work(&[]);
    for name in names {
        add(&mut work.checks, &path(name), Check { unseen_in_replica: true, ..check() });
    }
    work
}

fn round(pair: &mut Fixture, names: &[&str]) -> Outcome {
    pair.round(listed(names))
}

/// Repeats the checks that came back. These observe both sides.
fn again(pair: &mut Fixture, outcome: Outcome) -> Outcome {
    let mut work = work(&[]);
    for (path, check, again) in outcome.again {
        assert!(!check.unseen_in_replica && again == Requeue::StaleListing, "{path}: {again:?}");
        add(&mut work.checks, &path, check);
    }
    pair.round(work)
}

#[test]
fn a_new_file_is_copied() {
    let mut pair = Fixture::new();
    pair.write("source/new", "text");
    let outcome = round(&mut pair, &["new"]);
    assert_eq!(operations(&outcome), [(Operation::Created, "new".into())]);
    assert_eq!(pair.read("replica/new"), "text");
}

#[test]
fn what_has_come_to_stand_there_is_not_replaced_unseen() {
    let mut pair = Fixture::new();
    for name in ["file", "link", "dir"] {
        pair.write(&format!("source/{name}"), "text");
    }
    pair.write("replica/file", "somebody's");
    std::os::unix::fs::symlink("nowhere", pair.at("replica/link")).unwrap();
    pair.write("replica/dir/file", "somebody's");
    let outcome = round(&mut pair, &["file", "link", "dir"]);
    assert_eq!((outcome.done.len(), outcome.again.len()), (0, 3));
    assert_eq!(pair.read("replica/file"), "somebody's");
    assert_eq!(pair.names("replica"), ["dir", "file", "link"], "nothing temporary is left");
    let outcome = again(&mut pair, outcome);
    assert!(outcome.done.iter().all(|done| done.operation == Operation::Updated));
    assert_eq!(
        ["dir", "file", "link"].map(|name| pair.read(&format!("replica/{name}"))),
        ["text"; 3]
    );
}

#[test]
fn what_has_become_something_else_is_looked_at() {
    let mut pair = Fixture::new();
    std::os::unix::fs::symlink("target", pair.at("source/link")).unwrap();
    fs::create_dir(pair.at("source/dir")).unwrap();
    let outcome = round(&mut pair, &["link", "dir", "gone"]);
    assert_eq!((outcome.done.len(), outcome.again.len(), outcome.problems.len()), (0, 3, 0));
    assert_eq!(pair.names("replica"), [""; 0]);
    let outcome = again(&mut pair, outcome);
    assert_eq!(
        operations(&outcome),
        [(Operation::Created, "dir".into()), (Operation::Created, "link".into())]
    );
}

#[test]
fn nothing_new_comes_where_it_is_held_back() {
    let mut pair = Fixture::new();
    pair.write("source/new", "text");
    let outcome = pair
        .round(Work { deletions: Deletions::Held { create_budget: Some(0) }, ..listed(&["new"]) });
    assert_eq!((outcome.held, outcome.waiting, outcome.done.len()), (0, 1, 0));
    assert_eq!(pair.names("replica"), [""; 0]);
}

#[test]
fn the_word_of_the_watch_makes_it_a_look() {
    let mut listed = Check { unseen_in_replica: true, ..check() };
    listed.merge(Check { detector: Detector::Watch, ..check() });
    assert!(!listed.unseen_in_replica);
}

#[test]
fn neither_is_it_by_a_big_file() {
    let mut pair = Fixture::new();
    for name in ["early", "late"] {
        pair.write(&format!("source/{name}"), "0123456789");
    }
    pair.write("replica/early", "somebody's");
    let outcome = pair.round(Work { big: 5, ..listed(&["early", "late"]) });
    let again: Vec<_> = outcome
        .again
        .iter()
        .map(|(path, check, again)| (path, check.unseen_in_replica, *again))
        .collect();
    assert_eq!(again, [(&path("early"), false, Requeue::StaleListing)]);
    let filled = pair.finished();
    pair.write("replica/late", "somebody's");
    let outcome = pair.round_with([filled], Work { big: 5, ..work(&[]) });
    assert!(
        matches!(outcome.again[..], [(_, _, Requeue::StaleListing)]) && outcome.done.is_empty()
    );
    assert_eq!(
        ["early", "late"].map(|name| pair.read(&format!("replica/{name}"))),
        ["somebody's"; 2]
    );
    assert_eq!(pair.names("replica"), ["early", "late"], "nothing temporary is left");
}

#[test]
fn what_its_directory_has_become_is_looked_at_as_what_it_is() {
    let mut pair = Fixture::new();
    pair.write("replica/d/f.txt", "text");
    let outcome = round(&mut pair, &["d/f.txt"]);
    assert_eq!(operations(&outcome), [(Operation::Removed, "d".into())]);
}
