//! Renames that are followed, and reported renames that are wrong.

use super::*;
use crate::plan::queue::{Rename, RenameBatch};

impl Fixture {
    /// Writes the same file on both sides.
    fn both(&self, path: &str, text: &str) {
        for side in ["source", "replica"] {
            self.write(&format!("{side}/{path}"), text);
        }
        let file =
            fs::File::options().write(true).open(self.at(&format!("replica/{path}"))).unwrap();
        let same = fs::metadata(self.at(&format!("source/{path}"))).unwrap().modified().unwrap();
        file.set_modified(same).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        let to = self.at(&format!("source/{to}"));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(self.at(&format!("source/{from}")), to).unwrap();
    }

    fn inode(&self, path: &str) -> u64 {
        fs::symlink_metadata(self.at(path)).unwrap().ino()
    }

    /// Does a round that follows renames, and checks their ends.
    fn follow(&mut self, hints: &[(&str, &str)]) -> Outcome {
        let since = Instant::now();
        let is_dir = |at: &str| self.at(&format!("source/{at}")).is_dir();
        let hint = |from: &str, to: &str| Rename::new(path(from), path(to), is_dir(to), since);
        let moves = RenameBatch::new(hints.iter().map(|(from, to)| hint(from, to)));
        let mut work = work(&[]);
        for end in hints.iter().flat_map(|(from, to)| [from, to]) {
            add(&mut work.checks, &path(end), Check { depth: Depth::Subtree, ..check() });
        }
        self.round(Work { moves, ..work })
    }

    /// Renames in the source, and has the replica follow.
    fn rename_and_follow(&mut self, hints: &[(&str, &str)]) -> Outcome {
        for (from, to) in hints {
            self.rename(from, to);
        }
        self.follow(hints)
    }
}

fn renamed(to: &str) -> (Operation, String) {
    (Operation::Renamed, to.to_owned())
}

#[test]
fn a_renamed_directory_is_renamed_and_not_copied() {
    let mut pair = Fixture::new();
    pair.both("a/sub/x", "text");
    let inodes = [pair.inode("replica/a"), pair.inode("replica/a/sub/x")];
    let outcome = pair.rename_and_follow(&[("a", "b")]);
    assert_eq!(operations(&outcome), [renamed("b")]);
    assert_eq!(outcome.done[0].from, Some(path("a")));
    assert_eq!([pair.inode("replica/b"), pair.inode("replica/b/sub/x")], inodes);
    assert_eq!(pair.names("replica"), ["b"]);
    assert_eq!((outcome.moved, outcome.to_walk), (vec![path("b")], vec![]));
}

#[test]
fn a_renamed_file_is_renamed_over_another_and_read_once() {
    let mut pair = Fixture::new();
    pair.both("new", "new text");
    pair.both("f", "old");
    let inode = pair.inode("replica/new");
    let outcome = pair.rename_and_follow(&[("new", "f")]);
    assert_eq!(operations(&outcome), [renamed("f")]);
    assert_eq!((pair.read("replica/f").as_str(), pair.inode("replica/f")), ("new text", inode));
    assert_eq!(outcome.hashed, 1);
}

#[test]
fn a_chain_of_renames_goes_to_its_end_at_once() {
    let mut pair = Fixture::new();
    pair.both("a/x", "text");
    let inode = pair.inode("replica/a/x");
    let outcome = pair.rename_and_follow(&[("a", "b"), ("b", "c"), ("c", "d/e/f")]);
    let made = |path: &str| (Operation::Created, path.to_owned());
    assert_eq!(operations(&outcome), [made("d"), made("d/e"), renamed("d/e/f")]);
    assert_eq!(pair.inode("replica/d/e/f/x"), inode);
    assert_eq!(pair.names("replica"), ["d"]);
}

#[test]
fn names_that_are_swapped_by_a_third_or_exchanged_are_swapped() {
    let mut pair = Fixture::new();
    pair.both("a/of_a", "1");
    pair.both("b/of_b", "2");
    let inodes = |pair: &Fixture| [pair.inode("replica/a"), pair.inode("replica/b")];
    let [a, b] = inodes(&pair);
    pair.rename_and_follow(&[("a", "t"), ("b", "a"), ("t", "b")]);
    assert_eq!(inodes(&pair), [b, a]);
    assert_eq!(pair.names("replica"), ["a", "b"]);
    // An exchange is reported as two renames.
    for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
        pair.rename(from, to);
    }
    let outcome = pair.follow(&[("a", "b"), ("b", "a")]);
    assert_eq!(operations(&outcome), [renamed("a"), renamed("b")]);
    assert_eq!(inodes(&pair), [a, b]);
    assert_eq!(
        (pair.names("replica/a"), pair.names("replica/b")),
        (vec!["of_a".into()], vec!["of_b".into()])
    );
}

#[test]
fn there_and_back_is_no_way_at_all() {
    let mut pair = Fixture::new();
    pair.both("a/x", "text");
    let inode = pair.inode("replica/a/x");
    let outcome = pair.rename_and_follow(&[("a", "b"), ("b", "a")]);
    assert_eq!(operations(&outcome), []);
    assert_eq!(pair.inode("replica/a/x"), inode);
}

#[test]
fn what_is_made_anew_in_the_old_place_is_there_without_a_gap() {
    let mut pair = Fixture::new();
    pair.both("log/1", "first");
    let inode = pair.inode("replica/log/1");
    pair.rename("log", "log.old");
    pair.write("source/log/2", "second");
    let outcome = pair.follow(&[("log", "log.old")]);
    assert_eq!(operations(&outcome), [(Operation::Created, "log".into()), renamed("log.old")]);
    assert_eq!(pair.inode("replica/log.old/1"), inode);
    assert_eq!(pair.names("replica/log"), [""; 0]);
    assert!(outcome.to_walk.contains(&path("log")), "what it holds is found by a scan");
    // A file is copied: a reader would miss its name meanwhile.
    pair.both("f", "one");
    pair.rename("f", "f~");
    pair.write("source/f", "two");
    let outcome = pair.follow(&[("f", "f~")]);
    assert_eq!(
        operations(&outcome),
        [(Operation::Updated, "f".into()), (Operation::Created, "f~".into())]
    );
}

#[test]
fn a_directory_that_is_moved_out_of_one_that_moves_goes_first() {
    let mut pair = Fixture::new();
    pair.both("a/sub/x", "x");
    pair.both("a/y", "y");
    let inodes = [pair.inode("replica/a/sub"), pair.inode("replica/a")];
    pair.rename_and_follow(&[("a", "b"), ("b/sub", "c"), ("b", "c/b")]);
    assert_eq!([pair.inode("replica/c"), pair.inode("replica/c/b")], inodes);
    assert_eq!(pair.names("replica"), ["c"]);
    // Child and parent change places.
    pair.rename_and_follow(&[("c/b", "b"), ("c", "b/c")]);
    assert_eq!([pair.inode("replica/b/c"), pair.inode("replica/b")], inodes);
    assert_eq!(
        (pair.names("replica"), pair.names("replica/b")),
        (vec!["b".into()], vec!["c".into(), "y".into()])
    );
}

#[test]
fn hints_that_are_wrong_do_no_harm() {
    let mut pair = Fixture::new();
    pair.both("a/x", "text");
    pair.both("b/y", "other");
    pair.both("f", "file");
    let before = [pair.inode("replica/a/x"), pair.inode("replica/b/y"), pair.inode("replica/f")];
    // Forged, reversed, stale, of other kinds, of itself, of what never was, of reserved names.
    for hints in [
        &[("a", "b")][..],
        &[("b", "a"), ("a", "c")],
        &[("c", "a")],
        &[("a", "f")],
        &[("f", "a/x")],
        &[("nothing", "nowhere")],
        &[("a", "nowhere")],
        &[("a/x", "a/x")],
        &[("a", "a/b")],
        &[("a/x", ".twindir.0123456789abcdef.tmp")],
        &[("a", "b"), ("b", "a"), ("a", "b"), ("b", "a"), ("f", "g"), ("g", "f")],
    ] {
        pair.follow(hints);
        pair.remove_emptied();
        let looked = pair.observe(&["a", "b", "f", "a/x", "b/y", "c", "nowhere"]);
        assert_eq!(operations(&looked), [], "{hints:?}");
        assert_eq!(pair.names("replica"), ["a", "b", "f"], "{hints:?}");
        assert_eq!(
            (pair.read("replica/a/x"), pair.read("replica/b/y")),
            ("text".into(), "other".into())
        );
    }
    assert_eq!(
        [pair.inode("replica/a/x"), pair.inode("replica/b/y"), pair.inode("replica/f")],
        before
    );
}

#[test]
fn a_hint_that_looks_right_and_is_not_is_mended_by_the_looks() {
    let mut pair = Fixture::new();
    pair.both("a/x", "of a");
    // The source's new directory is not the one that the replica has as `a`.
    pair.rename("a", "gone");
    pair.write("source/b/y", "of b");
    fs::remove_dir_all(pair.at("source/gone")).unwrap();
    let outcome = pair.follow(&[("a", "b")]);
    assert_eq!(outcome.moved, [path("b")]);
    pair.observe(&["b/x", "b/y"]);
    assert_eq!(
        (pair.names("replica"), pair.names("replica/b")),
        (vec!["b".into()], vec!["y".into()])
    );
    assert_eq!(pair.read("replica/b/y"), "of b");
}

#[test]
fn while_deletions_are_held_nothing_is_moved() {
    let mut pair = Fixture::new();
    pair.both("a/x", "text");
    pair.rename("a", "b");
    let since = Instant::now();
    let moves = RenameBatch::new([Rename::new(path("a"), path("b"), true, since)]);
    let outcome = pair.round(Work {
        moves,
        deletions: Deletions::Held { create_budget: None },
        ..work(&["a", "b", "b/x"])
    });
    assert_eq!((outcome.held, pair.names("replica")), (1, vec!["a".into(), "b".into()]));
}

#[test]
fn a_big_file_on_its_way_arrives_where_its_directory_is_by_then() {
    let mut pair = Fixture::new();
    pair.write("source/d/big", "of some size");
    fs::create_dir(pair.at("replica/d")).unwrap();
    pair.round(Work { big: 1, ..work(&["d/big"]) });
    pair.rename("d", "e");
    pair.follow(&[("d", "e")]);
    let finished = pair.finished();
    let outcome = pair.round_with([finished], work(&[]));
    assert_eq!(operations(&outcome), [(Operation::Created, "e/big".into())]);
    assert_eq!(pair.names("replica/e"), ["big"]);
}

/// Makes two files that differ in their contents alone, and has a worker copy one. Returns the
/// finished copy, which no round has handled yet.
fn with_one_in_flight(pair: &mut Fixture, name: &str) -> Finished {
    pair.both(name, "old text");
    let (source, replica) =
        (pair.at(&format!("source/{name}")), pair.at(&format!("replica/{name}")));
    fs::write(&source, "new text").unwrap();
    let same = fs::metadata(replica).unwrap().modified().unwrap();
    fs::File::options().write(true).open(source).unwrap().set_modified(same).unwrap();
    pair.round(Work { big: 1, ..work(&[name]) });
    let compared = pair.finished();
    pair.round_with([compared], Work { big: 1, ..work(&[]) });
    pair.finished()
}

#[test]
fn a_file_that_is_renamed_on_its_way_leaves_nothing_behind() {
    let mut pair = Fixture::new();
    pair.both("b/other", "text");
    let finished = with_one_in_flight(&mut pair, "a/f");
    pair.rename_and_follow(&[("a/f", "b/f")]);
    pair.round_with([finished], work(&[]));
    pair.observe(&["a/f", "b/f"]);
    assert_eq!(
        (pair.names("replica/a"), pair.names("replica/b")),
        (vec![], vec!["f".into(), "other".into()])
    );
    assert_eq!(pair.read("replica/b/f"), "new text");
}

#[test]
fn a_file_arrives_in_the_round_that_renames_its_directory() {
    let mut pair = Fixture::new();
    let finished = with_one_in_flight(&mut pair, "a/f");
    pair.rename("a", "b");
    let hint = Rename::new(path("a"), path("b"), true, Instant::now());
    let moves = RenameBatch::new([hint]);
    pair.round_with([finished], Work { moves, ..work(&["a", "b"]) });
    assert_eq!(
        (pair.names("replica"), pair.names("replica/b")),
        (vec!["b".into()], vec!["f".into()])
    );
    assert_eq!(pair.read("replica/b/f"), "new text");
}

#[test]
fn files_on_their_way_go_with_the_directories_that_are_exchanged() {
    let mut pair = Fixture::new();
    let in_a = with_one_in_flight(&mut pair, "a/f");
    let in_b = with_one_in_flight(&mut pair, "b/g");
    for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
        pair.rename(from, to);
    }
    pair.follow(&[("a", "b"), ("b", "a")]);
    pair.round_with([in_a, in_b], work(&[]));
    assert_eq!(
        (pair.names("replica/a"), pair.names("replica/b")),
        (vec!["g".into()], vec!["f".into()])
    );
    assert_eq!(
        (pair.read("replica/a/g"), pair.read("replica/b/f")),
        ("new text".into(), "new text".into())
    );
}

#[test]
fn a_tree_that_was_put_aside_goes_from_where_its_directory_is_by_then() {
    let mut pair = Fixture::new();
    pair.both("a/sub/x", "text");
    pair.both("a/y", "text");
    fs::remove_dir_all(pair.at("source/a/sub")).unwrap();
    pair.observe(&["a/sub"]);
    pair.rename_and_follow(&[("a", "b")]);
    pair.remove_emptied();
    assert_eq!(
        (pair.names("replica"), pair.names("replica/b")),
        (vec!["b".into()], vec!["y".into()])
    );
}

#[test]
fn a_renamed_file_is_read_where_its_directory_has_taken_it() {
    let mut pair = Fixture::new();
    pair.both("a/f", "old text");
    let time = fs::metadata(pair.at("replica/a/f")).unwrap().modified().unwrap();
    fs::write(pair.at("source/a/f"), "new text").unwrap();
    fs::File::options()
        .write(true)
        .open(pair.at("source/a/f"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    pair.rename_and_follow(&[("a/f", "a/g"), ("a", "b")]);
    assert_eq!(pair.read("replica/b/g"), "new text");
}

#[test]
fn what_stands_where_a_directory_has_come_to_is_put_aside() {
    let mut pair = Fixture::new();
    pair.both("t/old", "old");
    pair.both("d/new", "new");
    let inode = pair.inode("replica/d");
    fs::remove_dir_all(pair.at("source/t")).unwrap();
    let outcome = pair.rename_and_follow(&[("d", "t")]);
    assert_eq!(operations(&outcome), [(Operation::Removed, "t".into()), renamed("t")]);
    pair.remove_emptied();
    assert_eq!(
        (pair.names("replica"), pair.names("replica/t")),
        (vec!["t".into()], vec!["new".into()])
    );
    assert_eq!(pair.inode("replica/t"), inode);
}

#[test]
fn a_directory_of_which_a_part_is_excluded_in_the_new_place_is_copied() {
    let mut pair = Fixture::new();
    pair.reconciler.filter = Filter::new(crate::fs::filter::Patterns::read(b"/a/secret"), false);
    pair.both("b/secret", "text");
    pair.both("b/open", "text");
    let outcome = pair.rename_and_follow(&[("b", "a")]);
    let created = (Operation::Created, "a".into());
    assert_eq!(operations(&outcome), [created, (Operation::Removed, "b".into())]);
    pair.remove_emptied();
    assert_eq!((pair.names("replica"), outcome.to_walk), (vec!["a".into()], vec![path("a")]));
}
