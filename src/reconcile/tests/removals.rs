//! Rounds that take something away: what has to stay, and what is kept first.

use super::*;

#[test]
fn a_directory_of_the_replica_stays_while_the_source_lies_in_it() {
    let mut pair = Pair::new();
    pair.write("source/f", "x");
    pair.write("replica/d/x", "x");
    fs::rename(pair.at("source"), pair.at("replica/d/source")).unwrap();
    symlink("replica/d/source", pair.at("source")).unwrap();
    let outcome = pair.look(&["d"]);
    assert_eq!(operations(&outcome), []);
    assert_eq!(outcome.problems.len(), 1);
    assert_eq!(pair.read("replica/d/source/f"), "x");
}
