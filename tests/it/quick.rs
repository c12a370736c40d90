//! The quick sweep: what it reads, and what it leaves unread.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::json::Json;
use crate::support::xattr::{assert_same_xattrs, set_xattr, xattrs};
use crate::support::{Run, Scratch, Tree, set_mtime};

const OLD: i64 = 1_600_000_000;

fn synced() -> Scratch {
    let tree =
        Tree::new().files("sub", 20).file("same", "before").mtime(OLD, 1).symlink("l", "sub");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    scratch
}

/// This project's own documents: files that were made long ago, as their ctimes say, which nobody
/// can set.
fn old_source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Whether the last change of all of them was longer ago than a file may change without a sign.
fn is_old(source: &Path) -> bool {
    let centiseconds = |name: &str| -> i64 {
        fs::read_to_string(Path::new("/proc/sys/vm").join(name)).unwrap().trim().parse().unwrap()
    };
    let unseen =
        (centiseconds("dirty_expire_centisecs") + centiseconds("dirty_writeback_centisecs")) / 100
            + 2;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let is_old = |at: &Path| fs::symlink_metadata(at).unwrap().ctime() + unseen < now;
    fs::read_dir(source).unwrap().all(|entry| {
        let at = entry.unwrap().path();
        is_old(&at) && (!at.is_dir() || at.is_symlink() || self::is_old(&at))
    })
}

/// Pairs of files that a quick run has read.
fn quick(scratch: &Scratch) -> String {
    hashed(scratch, &scratch.source())
}

fn hashed(scratch: &Scratch, source: &Path) -> String {
    hashed_by(&quick_run(scratch, source))
}

fn quick_run(scratch: &Scratch, source: &Path) -> Run {
    let options = ["--once", "--quick", "--log-format", "json"].map(OsStr::new);
    let roots = [source.as_os_str(), OsStr::new("replica")];
    scratch.run(options.into_iter().chain(roots)).expect(0)
}

fn hashed_by(run: &Run) -> String {
    let lines = Json::parse_lines(&run.stdout);
    let sweep = lines.iter().find(|line| line.text("op") == "sweep").expect("a summary");
    sweep.number("hashed").expect("a number").to_string()
}

/// Writes other bytes of the same length and puts the mtime back.
fn edit_unseen(at: &Path) {
    fs::write(at, "afters").unwrap();
    set_mtime(at, OLD, 1);
}

#[test]
fn what_was_old_when_it_was_copied_is_not_read() {
    let (scratch, source) = (Scratch::new(), old_source());
    if !is_old(&source) {
        return crate::support::skip("the checkout is younger than a minute");
    }
    scratch.run([Path::new("--once"), &source, Path::new("replica")]).expect(0);
    assert_eq!(hashed(&scratch, &source), "0");
}

/// Writes the first byte of a file through a mapping each time that a line comes in.
const MAPPED: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    page = mmap.mmap(file.fileno(), 0)
    for number in range(3):
        page[number] = 120
        print(number, flush=True)
        sys.stdin.readline()
";

/// The kernel may not tell of what is written through a mapping to a page that was not written
/// back.
#[test]
fn what_was_young_when_it_was_copied_is_read_as_long_as_it_is_young() {
    let scratch = synced();
    let file = scratch.source().join("same");
    let python = Command::new("python3")
        .args(["-c", MAPPED])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = python else { return crate::support::skip("no python3") };
    let (mut go, mut done) =
        (python.stdin.take().unwrap(), BufReader::new(python.stdout.take().unwrap()).lines());
    for text in ["xefore", "xxfore", "xxxore"] {
        done.next().unwrap().unwrap();
        assert_eq!(fs::read(&file).unwrap(), text.as_bytes());
        let run = quick_run(&scratch, &scratch.source());
        assert_eq!(hashed_by(&run), "42", "all is young");
        assert!(!run.stderr.contains("silent"), "no disk is blamed for it\n{run}");
        scratch.assert_twins();
        go.write_all(b"\n").unwrap();
    }
    assert!(python.wait().unwrap().success());
}

#[test]
fn a_change_of_neither_size_nor_mtime_is_found() {
    let scratch = synced();
    edit_unseen(&scratch.source().join("same"));
    quick(&scratch);
    scratch.assert_twins();
}

/// Waits until what was changed last is old.
fn grow_old(scratch: &Scratch) {
    crate::support::wait_until("all is old", Duration::from_secs(120), || {
        is_old(&scratch.source())
    });
}

#[test]
#[ignore = "long: waits until files are old"]
fn what_was_found_equal_once_it_was_old_is_not_read_again() {
    let scratch = synced();
    grow_old(&scratch);
    assert_eq!(quick(&scratch), "21", "all was young when it was copied");
    assert_eq!(quick(&scratch), "0");
    let file = scratch.source().join("same");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    assert_eq!(quick(&scratch), "1");
    grow_old(&scratch);
    assert_eq!(quick(&scratch), "1");
    assert_eq!(quick(&scratch), "0");
    edit_unseen(&file);
    assert_eq!(quick(&scratch), "1");
    scratch.assert_twins();
}

#[test]
fn attributes_that_changed_are_found() {
    let scratch = synced();
    let file = scratch.source().join("sub/f3");
    if set_xattr(&file, "user.colour", "red").is_err() {
        return crate::support::skip("the file system has no user attributes");
    }
    quick(&scratch);
    assert_eq!(xattrs(&scratch.replica().join("sub/f3")), xattrs(&file));
    assert_same_xattrs(&scratch.source(), &scratch.replica());
}

#[test]
fn a_file_of_the_replica_that_was_tampered_with_is_left_to_the_full_sweep() {
    let (scratch, source) = (Scratch::new(), old_source());
    if !is_old(&source) {
        return crate::support::skip("the checkout is younger than a minute");
    }
    let run = |options: &[&str]| {
        let options = options.iter().map(OsStr::new);
        scratch.run(options.chain([source.as_os_str(), OsStr::new("replica")]))
    };
    run(&["--once"]).expect(0);
    let file = scratch.replica().join("design.md");
    let mtime = fs::metadata(&file).unwrap().modified().unwrap();
    let text = fs::read(&file).unwrap();
    fs::write(&file, vec![b'x'; text.len()]).unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(mtime).unwrap();
    assert_eq!(hashed(&scratch, &source), "0");
    let found = run(&["--check"]).expect(1);
    assert!(found.stdout.contains("design.md"), "{found}");
    run(&["--check", "--quick"]).expect(0);
    run(&["--once"]).expect(0);
    assert_eq!(fs::read(&file).unwrap(), text);
}

#[test]
#[ignore = "long: waits until files are old"]
fn a_directory_that_was_moved_to_the_place_of_another_is_read() {
    let tree = Tree::new()
        .file("cur/deep/f", "one")
        .mtime(OLD, 1)
        .file("next/deep/f", "two")
        .mtime(OLD, 1);
    let scratch = Scratch::new().with_source(&tree);
    grow_old(&scratch);
    scratch.sync();
    assert_eq!(quick(&scratch), "0");
    // Inodes, mtimes and ctimes of the files are what they were.
    let at = |name: &str| scratch.source().join(name);
    fs::rename(at("cur"), at("old")).unwrap();
    fs::rename(at("next"), at("cur")).unwrap();
    fs::rename(at("old"), at("next")).unwrap();
    assert_eq!(quick(&scratch), "2");
    scratch.assert_twins();
}

#[test]
fn it_is_for_single_runs() {
    let scratch = synced();
    scratch.run(["--quick", "source", "replica"]).expect(2).stderr_has("--once");
}
