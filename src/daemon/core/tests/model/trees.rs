//! Reads two trees, and finds where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::source::join;

/// The entry at each path, in words. The path of the root is empty.
pub type Tree = BTreeMap<String, String>;

/// Reads kinds and contents.
pub fn contents(root: &Path) -> Tree {
    let mut tree = Tree::new();
    add(root, "", &|what, _| what, &mut tree);
    tree
}

/// Reads kinds, contents, modes and mtimes.
fn read(root: &Path) -> Tree {
    let facts = |what, entry: &fs::Metadata| {
        format!("{what}, {:o}, {}.{:09}", entry.mode(), entry.mtime(), entry.mtime_nsec())
    };
    let mut tree = Tree::new();
    add(root, "", &facts, &mut tree);
    tree
}

fn add(root: &Path, path: &str, say: &impl Fn(String, &fs::Metadata) -> String, tree: &mut Tree) {
    let at = root.join(path);
    let entry = fs::symlink_metadata(&at).unwrap();
    let what = if entry.is_dir() {
        for below in fs::read_dir(&at).unwrap() {
            add(root, &join(path, below.unwrap().file_name().to_str().unwrap()), say, tree);
        }
        "directory".to_owned()
    } else if entry.is_symlink() {
        format!("symlink to {:?}", fs::read_link(&at).unwrap())
    } else {
        format!("file {:?}", fs::read_to_string(&at).unwrap())
    };
    tree.insert(path.to_owned(), say(what, &entry));
}

/// Returns one line for each path that is not the same in both.
pub fn differences(source: &Path, replica: &Path) -> Vec<String> {
    let (ours, theirs) = (read(source), read(replica));
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    names
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| {
            format!("{name:?}: source {:?}, replica {:?}", ours.get(name), theirs.get(name))
        })
        .collect()
}
