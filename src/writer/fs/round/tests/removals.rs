//! Rounds that remove entries: which ones have to stay, and which ones are kept first.

use super::*;
use crate::plan::queue::{Rename, RenameBatch};

#[test]
fn a_directory_of_the_replica_stays_while_the_source_lies_in_it() {
    let mut pair = Fixture::new();
    pair.write("source/f", "x");
    pair.write("replica/d/x", "x");
    fs::rename(pair.at("source"), pair.at("replica/d/source")).unwrap();
    symlink("replica/d/source", pair.at("source")).unwrap();
    let outcome = pair.observe(&["d"]);
    assert_eq!(operations(&outcome), []);
    assert_eq!(outcome.problems.len(), 1);
    assert_eq!(pair.read("replica/d/source/f"), "x");
}

/// Makes a fixture with a backup.
fn kept_pair() -> Fixture {
    let mut pair = Fixture::new();
    pair.reconciler.backup = Some(pair.backup());
    pair
}

/// Reads a file in the only folder of the backup.
fn kept(pair: &Fixture, path: &str) -> Option<String> {
    let folders = pair.names("backup");
    assert_eq!(folders.len(), 1, "{folders:?}");
    fs::read_to_string(pair.at("backup").join(&folders[0]).join(path)).ok()
}

fn rename(from: &str, to: &str) -> RenameBatch {
    RenameBatch::new([Rename::new(path(from), path(to), true, std::time::Instant::now())])
}

#[test]
fn a_directory_that_a_file_is_renamed_to_is_kept_once_and_not_copied() {
    let mut pair = kept_pair();
    pair.write("source/d", "file");
    pair.write("replica/f", "file");
    pair.write("replica/d/x", "within");
    let mtime = fs::metadata(pair.at("source/d")).unwrap().modified().unwrap();
    fs::File::options()
        .write(true)
        .open(pair.at("replica/f"))
        .unwrap()
        .set_modified(mtime)
        .unwrap();
    let inode = fs::metadata(pair.at("replica/d/x")).unwrap().ino();
    pair.round(Work { moves: rename("f", "d"), ..work(&["f", "d"]) });
    assert_eq!(pair.names("replica"), ["d"]);
    assert_eq!(kept(&pair, "d/x").as_deref(), Some("within"));
    let folder = pair.names("backup").remove(0);
    assert_eq!(fs::metadata(pair.at("backup").join(folder).join("d/x")).unwrap().ino(), inode);
}

#[test]
fn a_directory_that_another_is_renamed_to_is_kept_under_its_own_name() {
    for within in [&["x"][..], &[]] {
        let mut pair = kept_pair();
        pair.write("source/e/new", "new");
        pair.write("replica/a/new", "new");
        fs::create_dir(pair.at("replica/e")).unwrap();
        for name in within {
            pair.write(&format!("replica/e/{name}"), "old");
        }
        let outcome = pair.round(Work { moves: rename("a", "e"), ..work(&["a", "e"]) });
        let wanted = [(Operation::Removed, "e".into()), (Operation::Renamed, "e".into())];
        assert_eq!(operations(&outcome), wanted);
        assert_eq!(
            (pair.names("replica"), pair.read("replica/e/new")),
            (vec!["e".into()], "new".into())
        );
        let folder = pair.names("backup").remove(0);
        assert_eq!(pair.names(&format!("backup/{folder}/e")), within);
        assert_eq!(pair.reconciler.count_in_background(), 0);
    }
}

#[test]
fn where_a_directory_cannot_be_kept_another_is_not_renamed_to_its_place() {
    let mut pair = kept_pair();
    pair.write("source/e/new", "new");
    pair.write("replica/a/new", "new");
    pair.write("replica/e/old", "old");
    fs::rename(pair.at("backup"), pair.at("away")).unwrap();
    let outcome = pair.round(Work { moves: rename("a", "e"), ..work(&["a", "e", "e/old"]) });
    assert_eq!(operations(&outcome), []);
    assert_eq!(outcome.problems.len(), 2, "neither may go");
    assert_eq!(
        (pair.read("replica/a/new"), pair.read("replica/e/old")),
        ("new".into(), "old".into())
    );
    fs::rename(pair.at("away"), pair.at("backup")).unwrap();
    pair.observe(&["a", "e", "e/old"]);
    assert_eq!(kept(&pair, "e/old").as_deref(), Some("old"));
}

#[test]
fn what_is_being_filled_in_a_directory_does_not_go_to_the_backup_with_it() {
    let mut pair = kept_pair();
    pair.write("source/d/big", &"x".repeat(5_000));
    pair.write("replica/d/small", "x");
    pair.round(Work { big: 1_000, ..work(&["d/big"]) });
    let finished = pair.finished();
    fs::remove_dir_all(pair.at("source/d")).unwrap();
    pair.observe(&["d"]);
    assert_eq!(kept(&pair, "d/small").as_deref(), Some("x"));
    let folder = pair.names("backup").remove(0);
    assert_eq!(pair.names(&format!("backup/{folder}/d")), ["small"]);
    let outcome = pair.round_with([finished], work(&[]));
    assert_eq!(operations(&outcome), []);
    assert_eq!(pair.names("replica"), [""; 0]);
}
