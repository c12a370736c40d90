//! The guard: which deletions are held at the start of a run, and how to let them pass.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{DEADLINE, Daemon, Run, Scratch, Tree, are_twins, wait_until};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// A replica of `all` files, of which the source has lost the first `lost`.
fn lost(lost: usize, all: usize) -> Scratch {
    let tree = Tree::new().files("", all);
    let scratch = Scratch::new().with_source(&tree).with_replica(&tree);
    for number in 0..lost {
        fs::remove_file(scratch.source().join(format!("f{number}"))).unwrap();
    }
    scratch
}

fn entries(scratch: &Scratch) -> usize {
    fs::read_dir(scratch.replica()).unwrap().count()
}

/// It ends with 1, names the number and the way to let them pass, and has deleted nothing.
#[track_caller]
fn held(scratch: &Scratch, arguments: &[&str], deletions: usize) -> Run {
    let before = entries(scratch);
    let run = scratch.once(arguments).expect(1);
    let number = deletions.to_string();
    let says_so = |line: &str| {
        line.contains("held")
            && line.split(|c: char| !c.is_ascii_digit()).any(|word| word == number)
    };
    assert!(run.stderr.lines().any(says_so), "not {number}: {run}");
    assert!(run.stderr.contains("--once --max-delete "), "{run}");
    assert!(!run.stdout.contains("in sync as of"), "it is not equal\n{run}");
    assert_eq!(entries(scratch), before, "something was deleted\n{run}");
    run
}

#[track_caller]
fn passes(scratch: &Scratch, arguments: &[&str]) {
    let run = scratch.once(arguments).expect(0);
    assert!(!run.stderr.contains("held"), "{run}");
    scratch.assert_twins();
}

#[test]
fn emptying_a_source_of_two_files_empties_the_replica() {
    passes(&lost(2, 2), &[]);
}

#[test]
fn a_wholly_empty_source_against_three_entries_is_held() {
    for number in [3, 9, 10, 500] {
        held(&lost(number, number), &[], number).stderr_has("the source is empty");
    }
}

/// A source of these files against a replica of those.
fn strange(source: &[&str], replica: usize) -> Scratch {
    let source = source.iter().fold(Tree::new(), |tree, name| tree.file(*name, "x"));
    Scratch::new().with_source(&source).with_replica(&Tree::new().files("", replica))
}

#[test]
fn a_replica_that_has_hardly_a_name_in_common_with_the_source_is_held_whatever_its_size() {
    for number in [3, 30, 92, 99] {
        let scratch = strange(&["one"], number);
        // A copy that could hide it has to wait. A restart sees it, and so does a dry run, and a
        // run that watches.
        for (shared, all) in [(0, number), if number < 20 { (0, number) } else { (1, number + 1) }]
        {
            let run = scratch.once(&[]).expect(1);
            let question = format!(
                "this replica shares {shared} of {all} entries with the source: is it the right one?"
            );
            assert!(run.stderr.contains(&question), "{run}");
            assert_eq!(entries(&scratch), if number < 20 { number } else { number + 1 }, "{run}");
        }
        let dry = scratch.run(["--dry-run", "source", "replica"]).expect(1);
        assert!(dry.stderr.contains("with the source: is it the right one?"), "{dry}");
        let daemon = scratch.starting_watcher(&[]);
        wait_until("it says so", DEADLINE, || daemon.stderr().contains("is it the right one?"));
        wait_until("a sweep has ended", DEADLINE, || daemon.sweeps() > 0);
        drop(daemon);
        passes(&scratch, &["--max-delete", &number.to_string()]);
    }
}

#[test]
fn an_ordinary_start_asks_nothing() {
    // A first run; one name of ten; a file that has another name each night, and two; a restart.
    passes(&strange(&["one", "two", "three", "four"], 0), &[]);
    passes(&strange(&["f0"], 10), &[]);
    passes(&strange(&["today"], 1), &[]);
    passes(&strange(&["today"], 2), &[]);
    let scratch = strange(&["one", "two", "three", "four"], 0);
    for _ in 0..3 {
        passes(&scratch, &[]);
    }
}

#[test]
fn all_renamed_while_it_was_off_is_asked_for() {
    let scratch = strange(&["a", "b", "c", "d", "e"], 5);
    held(&scratch, &[], 5);
    passes(&scratch, &["--max-delete", "100%"]);
}

#[test]
fn what_does_not_count_makes_no_replica_familiar_and_none_strange() {
    // Names of twindir's own, what mkfs makes, what is excluded.
    let replica = Tree::new()
        .files("lost+found", 20)
        .files("cache", 20)
        .file(".twindir.0123456789abcdef.tmp", "left over")
        .files("", 2);
    let scratch = Scratch::new().with_source(&Tree::new().file("one", "x")).with_replica(&replica);
    let run = scratch.once(&["--exclude", "cache"]).expect(0);
    assert!(!run.stderr.contains("held"), "{run}");
    let replica = Tree::new().files("lost+found", 20).files("cache", 20).files("", 3);
    let source = Tree::new()
        .files("cache", 20)
        .file("one", "x")
        .file("two", "x")
        .file("three", "x")
        .dir("lost+found");
    let scratch = Scratch::new().with_source(&source).with_replica(&replica);
    held(&scratch, &["--exclude", "cache"], 23);
}

#[test]
fn a_share_of_more_than_ninety_percent_says_that_less_may_be_in_common() {
    held(&lost(98, 99), &[], 98);
    held(&lost(98, 99), &["--max-delete", "95%"], 98);
    passes(&lost(98, 99), &["--max-delete", "99%"]);
}

#[test]
fn a_source_that_still_has_one_file_of_ten_is_followed() {
    passes(&lost(9, 10), &[]);
}

#[test]
fn fewer_than_a_hundred_deletions_are_followed() {
    passes(&lost(89, 99), &[]);
    passes(&lost(99, 150), &[]);
}

#[test]
fn a_hundred_deletions_are_held_when_they_are_more_than_half() {
    held(&lost(100, 150), &[], 100);
    held(&lost(100, 199), &[], 100);
    held(&lost(1000, 1500), &[], 1000);
}

#[test]
fn half_of_the_replica_and_less_is_followed() {
    passes(&lost(100, 200), &[]);
    passes(&lost(100, 1000), &[]);
    passes(&lost(400, 1000), &[]);
}

/// A directory `big` of so many entries in the replica, and an empty one in the source, beside 1000
/// files.
fn emptied_directory(entries: usize) -> Scratch {
    let rest = Tree::new().files("rest", 1000);
    let scratch = Scratch::new()
        .with_source(&rest.clone().dir("big"))
        .with_replica(&rest.files("big", entries));
    // Its time tells of the files that were in it: let it.
    crate::support::set_mtime(&scratch.source().join("big"), 1_700_000_000, 7);
    scratch
}

#[test]
fn an_empty_directory_against_a_hundred_entries_is_held() {
    let scratch = emptied_directory(100);
    let run = scratch.once(&[]).expect(1).stderr_has("held");
    let kept = fs::read_dir(scratch.replica().join("big")).unwrap().count();
    assert_eq!(kept, 100, "{run}");
}

#[test]
fn an_empty_directory_against_fewer_is_followed() {
    passes(&emptied_directory(99), &[]);
}

#[test]
fn a_directory_that_became_a_file_counts_with_all_it_held() {
    let scratch = Scratch::new()
        .with_source(&Tree::new().file("it", "a file now").file("beside", "x"))
        .with_replica(&Tree::new().files("it", 150).file("beside", "x"));
    let run = scratch.once(&[]).expect(1).stderr_has("held");
    let kept = fs::read_dir(scratch.replica().join("it")).unwrap().count();
    assert_eq!(kept, 150, "{run}");
    passes(&scratch, &["--max-delete", "200"]);
}

#[test]
fn a_large_directory_that_became_a_file_or_a_symlink_is_held_however_large_the_rest_is() {
    let rest = Tree::new().files("rest", 1000);
    for now in [rest.clone().file("it", "a file now"), rest.clone().symlink("it", "rest")] {
        let scratch = Scratch::new().with_source(&now).with_replica(&rest.clone().files("it", 100));
        held(&scratch, &[], 101);
        passes(&scratch, &["--max-delete", "101"]);
        let small = Scratch::new().with_source(&now).with_replica(&rest.clone().files("it", 98));
        passes(&small, &[]);
    }
}

#[test]
fn files_that_became_fifos_are_deletions() {
    let scratch = lost(150, 200);
    for number in 0..150 {
        let at = scratch.source().join(format!("f{number}"));
        mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).unwrap();
    }
    held(&scratch, &[], 150);
    held(&scratch, &["--max-delete", "149"], 150);
    held(&scratch, &["--max-delete", "0"], 150);
    scratch.once(&["--max-delete", "150"]).expect(0);
    assert_eq!(entries(&scratch), 50);
}

#[test]
fn a_new_disk_is_empty_whatever_mkfs_puts_there() {
    let lost_found = Tree::new().dir("lost+found").mode(0o700);
    let scratch = Scratch::new().with_source(&lost_found).with_replica(&Tree::new().files("", 10));
    scratch.once(&[]).expect(1).stderr_has("the source is empty");
    let rest = Tree::new().files("rest", 1000);
    let in_it = Scratch::new()
        .with_source(&rest.clone().dir("big/lost+found").mode(0o700))
        .with_replica(&rest.clone().files("big", 100));
    in_it.once(&[]).expect(1).stderr_has("the source's big/ is empty");
    let kept = fs::read_dir(in_it.replica().join("big")).unwrap().count();
    assert_eq!(kept, 101, "and lost+found");
}

#[test]
fn the_last_of_two_limits_counts() {
    passes(&lost(150, 160), &["--max-delete", "10%", "--max-delete", "150"]);
}

#[test]
fn while_deletions_are_held_copying_goes_on() {
    let scratch = lost(120, 130);
    let source = scratch.source();
    fs::write(source.join("f125"), "changed").unwrap();
    Tree::new().file("new/deep/file", "new").symlink("new/link", "deep").make(&source);
    held_with_copies(&scratch);
    for name in ["f125", "new/deep/file"] {
        let [left, right] =
            [&source, &scratch.replica()].map(|root| fs::read(root.join(name)).unwrap());
        assert_eq!(left, right, "{name}");
    }
    assert!(scratch.replica().join("new/link").is_symlink());
    assert!(scratch.temporaries().is_empty());
}

#[track_caller]
fn held_with_copies(scratch: &Scratch) {
    scratch.once(&[]).expect(1).stderr_has("held");
    assert_eq!(entries(scratch), 131, "130 files and the new directory");
}

/// Does what the line of held deletions says, in another folder and by a shell: they pass.
#[track_caller]
fn do_as_told(scratch: &Scratch, run: &Run) {
    let (_, command) = run.stderr.trim_end().rsplit_once(" run: ").expect("a command");
    let mut shell = std::process::Command::new("sh");
    scratch.prepare(&mut shell);
    Daemon::run({
        shell.args(["-c", command]).current_dir("/");
        shell
    })
    .expect(0);
    scratch.assert_twins();
}

#[test]
fn the_command_that_it_names_lets_them_pass() {
    let became_a_file = Scratch::new()
        .with_source(&Tree::new().file("it", "a file now").file("beside", "x"))
        .with_replica(&Tree::new().files("it", 150).file("beside", "x"));
    for scratch in [lost(10, 10), lost(300, 310), emptied_directory(150), became_a_file] {
        let run = scratch.once(&[]).expect(1).stderr_has("Among them: ");
        do_as_told(&scratch, &run);
    }
}

#[test]
fn the_command_that_it_names_has_the_options_in_use() {
    let scratch = strange(&["one", "two", "keep.o"], 20);
    fs::write(scratch.replica().join("left.o"), "x").unwrap();
    fs::write(scratch.path("it's patterns"), "*.o\n").unwrap();
    let options =
        ["--exclude-from", "it's patterns", "--backup-dir", "old ones", "-l", "logs/a log"];
    let run = held(&scratch, &options, 20);
    let (_, command) = run.stderr.trim_end().rsplit_once(" run: ").expect("a command");
    let mut shell = std::process::Command::new("sh");
    scratch.prepare(&mut shell);
    shell.args(["-c", command]).current_dir("/");
    Daemon::run(shell).expect(0);
    let names = |dir: &Path| -> Vec<_> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&scratch.replica()), ["left.o", "one", "two"]);
    let kept =
        fs::read_dir(scratch.path("old ones")).unwrap().next().expect("a folder").unwrap().path();
    assert_eq!(names(&kept).len(), 20);
    assert!(fs::read_to_string(scratch.path("logs/a log")).unwrap().contains(" removed "));
}

#[test]
fn what_the_command_let_pass_is_no_matter_for_the_daemon_after_it() {
    let scratch = lost(300, 310);
    let daemon = scratch.daemon("0.1");
    wait_until("it says so", DEADLINE, || daemon.stderr().contains("held"));
    drop(daemon);
    let run = scratch.once(&[]).expect(1);
    do_as_told(&scratch, &run);
    let daemon = scratch.watcher(&[]);
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn a_plain_number_is_taken_at_its_word() {
    passes(&lost(100, 100), &["--max-delete", "100"]);
    passes(&lost(9, 9), &["--max-delete", "9"]);
    held(&lost(100, 1000), &["--max-delete", "99"], 100);
    held(&lost(5, 1000), &["--max-delete", "4"], 5);
    passes(&lost(5, 1000), &["--max-delete", "5"]);
    held(&lost(1, 5), &["--max-delete", "0"], 1);
    passes(&lost(0, 5), &["--max-delete", "0"]);
}

#[test]
fn a_share_is_a_share_of_the_replica() {
    held(&lost(100, 500), &["--max-delete", "10%"], 100);
    passes(&lost(100, 500), &["--max-delete", "20%"]);
    passes(&lost(150, 160), &["--max-delete", "99%"]);
    // Under a hundred the share does not count.
    passes(&lost(50, 100), &["--max-delete", "10%"]);
}

#[test]
fn a_hundred_percent_turns_the_guard_off() {
    passes(&lost(500, 500), &["--max-delete", "100%"]);
    passes(&emptied_directory(500), &["--max-delete", "100%"]);
}

#[test]
fn a_source_that_was_trusted_is_followed_while_it_runs() {
    let scratch = Scratch::new().with_source(&Tree::new().files("a", 400).files("", 100));
    let daemon = scratch.daemon("0.2");
    daemon.wait_settled(1);
    scratch.assert_twins();
    for entry in fs::read_dir(scratch.source()).unwrap() {
        let at = entry.unwrap().path();
        if at.is_dir() {
            fs::remove_dir_all(at).unwrap();
        } else {
            fs::remove_file(at).unwrap();
        }
    }
    wait_until("the replica is empty too", DEADLINE, || entries(&scratch) == 0);
    daemon.wait_settled(2);
    assert!(!daemon.stderr().contains("held"), "{}", daemon.stderr());
}

#[test]
fn what_is_held_is_said_once() {
    for scratch in [lost(500, 500), wrong(), emptied_directory(150)] {
        let daemon = scratch.daemon("0.1");
        wait_until("it says so", DEADLINE, || daemon.stderr().contains(" held "));
        daemon.wait_sweeps(4);
        assert_eq!(daemon.stderr().matches(" held ").count(), 1, "{}", daemon.stderr());
    }
}

#[test]
fn a_source_that_is_being_restored_is_trusted_only_once_little_is_missing() {
    let scratch = lost(200, 200);
    let daemon = scratch.daemon("0.1");
    wait_until("it says so", DEADLINE, || daemon.stderr().contains("held"));
    let restore = |numbers: std::ops::Range<usize>| {
        let back = scratch.path("back");
        let tree =
            numbers.fold(Tree::new(), |tree, number| tree.file(format!("f{number}"), "text"));
        tree.make(&back);
        for entry in fs::read_dir(&back).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), scratch.source().join(entry.file_name())).unwrap();
        }
        fs::remove_dir(&back).unwrap();
    };
    restore(0..179);
    daemon.wait_sweeps(4);
    assert_eq!(entries(&scratch), 200);
    restore(179..180);
    wait_until("the last twenty are gone", DEADLINE, || entries(&scratch) == 180);
    wait_until("it says so", DEADLINE, || daemon.stdout().contains("complete again"));
}

#[test]
fn a_daemon_goes_on_holding_until_the_files_are_back() {
    let scratch = lost(500, 500);
    let daemon = scratch.daemon("0.1");
    wait_until("it says so", DEADLINE, || daemon.stderr().contains("held"));
    daemon.wait_sweeps(3);
    assert_eq!(entries(&scratch), 500);
    assert_eq!(daemon.settled(), 0, "it is not equal");
    // Elsewhere first, and most of them only: what is still missing is no longer worth holding.
    let back = scratch.path("back");
    Tree::new().files("", 490).make(&back);
    for entry in fs::read_dir(&back).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), scratch.source().join(entry.file_name())).unwrap();
    }
    wait_until("the last ten are gone", DEADLINE, || entries(&scratch) == 490);
    daemon.wait_settled(1);
    daemon.wait_sweeps(2);
    scratch.assert_twins();
}

/// A replica of 300 entries, and a source of 400 others.
fn wrong() -> Scratch {
    Scratch::new()
        .with_source(&Tree::new().files("wrong", 400))
        .with_replica(&Tree::new().files("right", 300))
}

#[track_caller]
fn assert_untouched(scratch: &Scratch) {
    let there = fs::read_dir(scratch.replica().join("right")).map(Iterator::count);
    assert_eq!(there.ok(), Some(300));
    assert!(!scratch.replica().join("wrong").exists());
}

#[test]
fn a_wrong_source_is_not_trusted_by_the_next_run_either() {
    let scratch = wrong();
    for _ in 0..3 {
        let run = scratch.once(&[]).expect(1).stderr_has("401 entries that are new wait");
        assert_untouched(&scratch);
        assert!(run.stderr.contains("301 of the replica's 301 entries"), "{run}");
    }
    let dry = scratch.run(["--dry-run", "source", "replica"]).expect(1);
    assert!(dry.actions().is_empty(), "{dry}");
    passes(&scratch, &["--max-delete", "301"]);
}

#[test]
fn what_comes_to_a_doubted_source_little_by_little_is_copied_until_it_would_hide_what_is_to_go() {
    let scratch = lost(150, 160);
    scratch.once(&[]).expect(1).stderr_has("Deletions are held, copies are not.");
    Tree::new().files("first", 50).make(&scratch.source());
    scratch.once(&[]).expect(1).stderr_has("Deletions are held, copies are not.");
    assert!(scratch.replica().join("first").exists());
    Tree::new().files("second", 150).make(&scratch.source());
    for _ in 0..2 {
        scratch.once(&[]).expect(1).stderr_has("151 entries that are new wait");
    }
    assert!(!scratch.replica().join("second").exists());
    passes(&scratch, &["--max-delete", "150"]);
}

#[test]
fn what_a_doubted_source_gets_while_it_is_watched_does_not_make_it_right() {
    let scratch = Scratch::new()
        .with_source(&Tree::new().file("s", "x"))
        .with_replica(&Tree::new().files("right", 200));
    let wrong =
        |round: usize| Tree::new().files(&format!("wrong{round}"), 60).make(&scratch.source());
    for round in 0..5 {
        let daemon = scratch.starting_watcher(&[]);
        wait_until("it says so", DEADLINE, || daemon.stderr().contains("held"));
        wait_until("a sweep has ended", DEADLINE, || daemon.sweeps() > 0);
        wrong(round);
        // What is saved in a file of both sides is followed, and what came before it was seen by
        // then.
        fs::write(scratch.source().join("s"), round.to_string()).unwrap();
        wait_until("the save is there", DEADLINE, || {
            fs::read_to_string(scratch.replica().join("s"))
                .is_ok_and(|text| text == round.to_string())
        });
        drop(daemon);
        scratch.once(&[]).expect(1).stderr_has("held");
        assert_eq!(fs::read_dir(scratch.replica().join("right")).unwrap().count(), 200);
    }
    passes(&scratch, &["--max-delete", "201"]);
}

/// A daemon doubts a source that has lost 300 entries. Something happens in it; what the replica
/// had stays, also in the next run.
#[track_caller]
fn stays_doubted(has: &Tree, happens: impl FnOnce(&Path)) {
    let old = (0..300)
        .fold(Tree::new().file("s", "x"), |tree, number| tree.file(format!("old{number}"), "x"));
    let scratch = Scratch::new().with_source(has).with_replica(&old);
    let daemon = scratch.starting_watcher(&[]);
    wait_until("it says so", DEADLINE, || daemon.stderr().contains("held"));
    wait_until("a sweep has ended", DEADLINE, || daemon.sweeps() > 0);
    happens(&scratch.source());
    // What is saved in a file of both sides is followed, and what came before it was seen by then.
    fs::write(scratch.source().join("s"), "seen").unwrap();
    wait_until("the save is there", DEADLINE, || {
        fs::read_to_string(scratch.replica().join("s")).is_ok_and(|text| text == "seen")
    });
    drop(daemon);
    scratch.once(&[]).expect(1).stderr_has("held");
    let names = fs::read_dir(scratch.replica()).unwrap().map(|entry| entry.unwrap().file_name());
    let left = names.filter(|name| name.to_string_lossy().starts_with("old")).count();
    assert_eq!(left, 300);
}

#[test]
fn an_empty_source_that_is_filled_with_other_files_stays_doubted() {
    stays_doubted(&Tree::new(), |source| Tree::new().files("new", 301).make(source));
}

#[test]
fn a_doubted_source_that_has_some_names_again_and_many_new_ones_stays_doubted() {
    stays_doubted(&Tree::new().file("s", "x"), |source| {
        let back =
            (0..100).fold(Tree::new(), |tree, number| tree.file(format!("old{number}"), "x"));
        back.files("new", 298).make(source);
    });
    stays_doubted(&Tree::new().file("s", "x"), |source| {
        Tree::new().files("old1", 299).make(source);
    });
}

#[test]
fn a_wrong_source_is_not_trusted_for_what_was_copied_from_it() {
    for options in [&["--interval-only"][..], &[]] {
        let scratch = wrong();
        let roots = ["source", "replica", "0.1"];
        let daemon = Daemon::spawn(scratch.command(options.iter().chain(&roots)));
        wait_until("it says so", DEADLINE, || daemon.stderr().contains("held"));
        daemon.wait_sweeps(3);
        assert_untouched(&scratch);
    }
}

#[test]
fn below_a_hundred_the_share_alone_decides_of_an_adopted_root() {
    let few = Tree::new().files("", 20);
    for (name, is_held) in [("wholly other", true), ("half of it", false), ("less than half", true)]
    {
        let scratch = Scratch::new().with_source(&few);
        let daemon = scratch.daemon("0.1");
        daemon.wait_settled(1);
        let other = match name {
            "wholly other" => Tree::new().file("one", "x"),
            "half of it" => Tree::new().files("", 10),
            _ => Tree::new().files("", 9),
        };
        other.make(&scratch.path("other"));
        fs::rename(scratch.source(), scratch.path("away")).unwrap();
        fs::rename(scratch.path("other"), scratch.source()).unwrap();
        if is_held {
            wait_until(name, DEADLINE, || daemon.stderr().contains("held"));
            daemon.wait_sweeps(3);
            assert!(entries(&scratch) >= 20, "{name}");
        } else {
            wait_until(name, DEADLINE, || are_twins(&scratch.source(), &scratch.replica()));
            assert!(!daemon.stderr().contains("held"), "{}", daemon.stderr());
        }
    }
}

#[test]
fn an_adopted_replica_that_is_another_one_is_held() {
    let scratch = Scratch::new().with_source(&Tree::new().files("", 20));
    let daemon = scratch.daemon("0.1");
    daemon.wait_settled(1);
    Tree::new().files("work", 4).make(&scratch.path("other"));
    fs::rename(scratch.replica(), scratch.path("away")).unwrap();
    fs::rename(scratch.path("other"), scratch.replica()).unwrap();
    wait_until("it says so", DEADLINE, || daemon.stderr().contains("is it the right one?"));
    daemon.wait_sweeps(3);
    assert_eq!(fs::read_dir(scratch.replica().join("work")).unwrap().count(), 4);
}

#[test]
fn another_directory_adopted_at_the_sources_path_is_unproven() {
    let scratch = Scratch::new().with_source(&Tree::new().files("", 200));
    let daemon = scratch.daemon("0.1");
    daemon.wait_settled(1);
    fs::rename(scratch.source(), scratch.path("away")).unwrap();
    fs::create_dir(scratch.source()).unwrap();
    wait_until("it says so", DEADLINE, || daemon.stderr().contains("held"));
    daemon.wait_sweeps(3);
    assert_eq!(entries(&scratch), 200);
}

#[test]
fn a_source_that_a_symlink_leads_back_to_is_followed_as_any_other() {
    let scratch = Scratch::new();
    for version in ["one", "two"] {
        Tree::new().files("d", 20).file(version, "its own").make(&scratch.path(version));
    }
    let lead_to = |version: &str| {
        symlink(version, scratch.path("next")).unwrap();
        fs::rename(scratch.path("next"), scratch.source()).unwrap();
        wait_until(version, DEADLINE, || are_twins(&scratch.path(version), &scratch.replica()));
    };
    symlink("one", scratch.source()).unwrap();
    let daemon = scratch.daemon("0.1");
    daemon.wait_settled(1);
    for version in ["two", "one"] {
        lead_to(version);
    }
    fs::remove_file(scratch.path("one/d/f1")).unwrap();
    wait_until("it is followed", DEADLINE, || are_twins(&scratch.path("one"), &scratch.replica()));
    assert!(!daemon.stderr().contains("held"), "{}", daemon.stderr());
}
