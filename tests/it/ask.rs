//! `--status` and `--wait`: what somebody at another shell is told of a twindir that runs.

use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{DEADLINE, Run, Scratch, Tree, how_many, is_root, set_mode, skip, wait_until};

fn status(scratch: &Scratch) -> Run {
    scratch.run(["--status", "replica"])
}

fn json(scratch: &Scratch) -> serde_json::Value {
    let run = scratch.run(["--status", "replica", "--log-format", "json"]);
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
}

fn wait(scratch: &Scratch, timeout: &str) -> Run {
    scratch.run(["--wait", "replica", "--timeout", timeout])
}

/// A twin of 150 files, of which the source has one by now.
fn nearly_emptied() -> Scratch {
    let many = (0..150).fold(Tree::new(), |tree, n| tree.file(format!("f{n}"), "x"));
    let scratch = Scratch::new().with_source(&many);
    scratch.sync();
    for n in 1..150 {
        fs::remove_file(scratch.source().join(format!("f{n}"))).unwrap();
    }
    scratch
}

#[test]
fn nobody_there_is_said() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    scratch.sync();
    for arguments in [["--status", "replica"], ["--wait", "replica"], ["--status", "nowhere"]] {
        let run = scratch.run(arguments).expect(2);
        assert!(run.stderr.contains("no twindir of this user mirrors to"), "{run}");
    }
}

#[test]
fn a_status_says_whether_it_is_in_sync_and_what_is_wrong() {
    let tree = Tree::new().file("f", "x").file("locked/g", "x");
    let scratch = if is_root() { Scratch::ordinary() } else { Scratch::new() }.with_source(&tree);
    let daemon = scratch.watcher(&[]);
    wait_until("it is in sync", DEADLINE, || status(&scratch).code == Some(0));
    let run = status(&scratch);
    for words in
        ["in sync since", "/source -> /", "/replica", &format!("pid {}", daemon.pid()), "next"]
    {
        assert!(run.stdout.contains(words), "{words}: {run}");
    }
    let value = json(&scratch);
    assert_eq!((&value["state"], &value["in_sync"]), (&"in_sync".into(), &true.into()), "{value}");
    assert_eq!(value["problems"], 0);
    assert!(value["watches"].as_u64() >= Some(2), "{value}");
    set_mode(&scratch.source().join("f"), 0o000);
    fs::write(scratch.source().join("locked/new"), "y").unwrap();
    wait_until("the problem is told", DEADLINE, || json(&scratch)["problems"] == 1);
    let run = status(&scratch).expect(1);
    assert!(run.stdout.contains("problem    f: "), "{run}");
    let waited = wait(&scratch, "10").expect(1);
    assert!(waited.stderr.starts_with("f: "), "{waited}");
    set_mode(&scratch.source().join("f"), 0o644);
    wait(&scratch, "20").expect(0);
    status(&scratch).expect(0);
}

#[test]
fn held_deletions_are_in_the_status_with_the_command_that_lets_them_go() {
    let scratch = nearly_emptied();
    let _daemon = scratch.starting_watcher(&[]);
    wait_until("it is held", DEADLINE, || {
        scratch.run(["--status", "replica", "--log-format", "json"]).stdout.contains("\"held\":{")
    });
    let run = status(&scratch).expect(1);
    assert!(
        run.stdout.contains("149 deletions") && run.stdout.contains("--max-delete 149"),
        "{run}"
    );
    let waited = wait(&scratch, "20").expect(1);
    assert!(waited.stderr.contains("149 deletions are held"), "{waited}");
}

#[test]
fn a_lost_replica_is_answered_for_by_its_path() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    scratch.sync();
    let _daemon = scratch.watcher(&["--no-create"]);
    fs::rename(scratch.replica(), scratch.path("elsewhere")).unwrap();
    wait_until("it is told", DEADLINE, || {
        let run = status(&scratch);
        run.code == Some(1) && run.stdout.contains("waiting: ")
    });
    fs::rename(scratch.path("elsewhere"), scratch.replica()).unwrap();
    wait_until("it is in sync again", DEADLINE, || status(&scratch).code == Some(0));
}

#[test]
fn after_a_wait_all_that_was_saved_before_is_there() {
    saves_and_waits(&[], 40);
    saves_and_waits(&["--debounce", "0"], 40);
}

#[test]
#[ignore = "ten thousand saves; TWINDIR_SAVES says how many"]
fn after_ten_thousand_waits_nothing_was_missed() {
    let mut times = saves_and_waits(&[], how_many("TWINDIR_SAVES", 10_000));
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("p50 {:?}, p99 {:?}, longest {:?}", at(50), at(99), at(100));
}

/// Saves a file, waits, and compares; how long each wait took.
fn saves_and_waits(options: &[&str], times: u64) -> Vec<Duration> {
    let scratch = Scratch::new().with_source(&Tree::new().file("d/f", "x").dir("e"));
    let _daemon = scratch.watcher(options);
    let mut took = Vec::new();
    for number in 0..times {
        let names = ["d/f", "new", "e/deep/er/f"];
        let name = names[usize::try_from(number % 3).unwrap()];
        let (ours, copy) = (scratch.source().join(name), scratch.replica().join(name));
        fs::create_dir_all(ours.parent().unwrap()).unwrap();
        fs::write(&ours, number.to_string()).unwrap();
        let begun = Instant::now();
        wait(&scratch, "30").expect(0);
        took.push(begun.elapsed());
        assert_eq!(fs::read_to_string(&copy).unwrap(), number.to_string(), "{name}");
        if number % 5 == 4 {
            fs::remove_dir_all(scratch.source().join("e/deep")).unwrap();
            wait(&scratch, "30").expect(0);
            assert!(!scratch.replica().join("e/deep").exists());
        }
    }
    took
}

#[test]
fn a_wait_among_changes_is_for_those_that_were_made_before() {
    let scratch = Scratch::new().with_source(&Tree::new().files("d", 20).file("hot", ""));
    let _daemon = scratch.watcher(&[]);
    let source = scratch.source();
    let churn = crate::support::Background::start(0_u64, move |number| {
        *number += 1;
        fs::write(source.join("d").join((*number % 20).to_string()), number.to_string()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    });
    for number in 0..20 {
        fs::write(scratch.source().join("mine"), number.to_string()).unwrap();
        wait(&scratch, "30").expect(0);
        let copy = fs::read_to_string(scratch.replica().join("mine")).unwrap();
        assert_eq!(copy, number.to_string());
    }
    churn.stop();
}

#[test]
fn without_a_watch_a_wait_asks_for_a_sweep() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let _daemon = scratch.watcher(&["--interval-only"]);
    fs::write(scratch.source().join("f"), "changed").unwrap();
    wait(&scratch, "30").expect(0);
    assert_eq!(fs::read_to_string(scratch.replica().join("f")).unwrap(), "changed");
}

#[test]
fn a_full_wait_ends_with_a_full_sweep() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "text"));
    let daemon = scratch.watcher(&[]);
    let before = daemon.sweeps();
    // What nobody can know of without reading.
    let copy = scratch.replica().join("f");
    let mtime = fs::metadata(&copy).unwrap().modified().unwrap();
    fs::write(&copy, "rot!").unwrap();
    fs::File::options().write(true).open(&copy).unwrap().set_modified(mtime).unwrap();
    wait(&scratch, "30").expect(0);
    scratch.run(["--wait", "replica", "--full", "--timeout", "30"]).expect(0);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "text");
    wait_until("the sweep is said", DEADLINE, || daemon.sweeps() > before);
}

#[test]
fn a_wait_ends_when_its_time_is_over() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let daemon = scratch.watcher(&[]);
    daemon.signal(Signal::STOP);
    // It still answers nobody, and whoever asks does not wait for ever.
    fs::write(scratch.source().join("f"), "later").unwrap();
    daemon.signal(Signal::CONT);
    wait(&scratch, "30").expect(0);
    let run = scratch.run(["--wait", "replica", "--timeout", "0"]);
    assert!(matches!(run.code, Some(0 | 1)), "{run}");
}

#[test]
fn those_who_never_read_keep_nobody_waiting() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let _daemon = scratch.watcher(&[]);
    let names = fs::read_to_string("/proc/net/unix").unwrap();
    let label = {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(scratch.replica()).unwrap();
        format!("@twindir-replica-{:x}-{:x}-", meta.dev(), meta.ino())
    };
    let name = names.lines().find_map(|line| line.split_once(&label).map(|(_, rest)| rest));
    let name = format!("{}{}", &label[1..], name.expect("it has a socket").trim());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect_addr(&address).unwrap()).collect();
    let begun = Instant::now();
    status(&scratch).expect(0);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // One who asks nonsense gets an answer that says so.
    let mut stream = UnixStream::connect_addr(&address).unwrap();
    stream.write_all(b"what?\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("refused"), "{answer}");
    drop(silent);
}

#[test]
fn another_user_is_told_nothing() {
    if !is_root() {
        return skip("only root can become another user");
    }
    let scratch = Scratch::ordinary().with_source(&Tree::new().file("f", "x"));
    let _daemon = scratch.watcher(&[]);
    // This test's user is root, whom everybody answers.
    let mut command = std::process::Command::new(scratch.program());
    command.args(["--status", "replica"]).current_dir(scratch.root());
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    std::os::unix::process::CommandExt::uid(&mut command, 12_345);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn sigusr1_prints_the_status_and_ends_nothing() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let mut daemon = scratch.watcher(&[]);
    daemon.signal(Signal::USR1);
    wait_until("it is printed", DEADLINE, || daemon.stdout().contains("status   in sync since"));
    assert!(daemon.is_running());
}

#[test]
fn a_wait_beside_a_watch_walks_through_nothing() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let daemon = scratch.watcher(&["-v"]);
    let before = daemon.stdout().matches(" sweep    quick, ").count();
    for number in 0..5 {
        fs::write(scratch.source().join("f"), number.to_string()).unwrap();
        wait(&scratch, "30").expect(0);
    }
    assert_eq!(daemon.stdout().matches(" sweep    quick, ").count(), before, "{}", daemon.stdout());
}

#[test]
fn held_deletions_are_no_sync_and_no_wait_ends_well_whatever_sweeps() {
    let scratch = nearly_emptied();
    let daemon = scratch.daemon("0.2");
    wait_until("it is held", DEADLINE, || daemon.stderr().contains(" held "));
    let sweeps = daemon.sweeps();
    while daemon.sweeps() < sweeps + 5 {
        let run = scratch.run(["--status", "replica"]);
        assert!(run.code == Some(1), "{run}");
    }
    wait(&scratch, "20").expect(1);
}

#[test]
fn a_held_source_that_is_restored_bit_for_bit_is_trusted_soon() {
    let tree = Tree::new().files("d", 10);
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let source = scratch.source();
    let back = scratch.path("back");
    fs::rename(source.join("d"), &back).unwrap();
    let daemon = scratch.starting_watcher(&[]);
    wait_until("deletions are held", DEADLINE, || status(&scratch).stdout.contains(" held"));
    fs::rename(&back, source.join("d")).unwrap();
    wait_until("it is in sync", DEADLINE, || status(&scratch).code == Some(0));
    wait(&scratch, "30").expect(0);
    assert_eq!(daemon.sweeps(), 1, "no full sweep was needed\n{}", daemon.stdout());
}

#[test]
fn two_that_would_overwrite_each_others_source_are_refused() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let _daemon = scratch.watcher(&[]);
    for mode in [&["replica", "source"][..], &["--once", "replica", "source"]] {
        let run = scratch.run(mode).expect(2);
        assert!(run.stderr.contains("would overwrite the other's source"), "{run}");
    }
    // A chain is no ring.
    scratch.run(["--once", "replica", "third"]).expect(0);
    scratch.run(["--dry-run", "replica", "source"]).expect(0);
}
