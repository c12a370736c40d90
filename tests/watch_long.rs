//! What takes long on a live daemon that watches: many files, many rounds, a real build. Equal within two seconds, as
//! promised, on a machine that does nothing else.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Daemon, Scratch, Tree, are_twins, skip};

/// Without optimisation everything takes several times as long.
const PROMISE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 2 });

fn live() -> (Scratch, Daemon) {
    let scratch = Scratch::roomy().with_source(&Tree::new().file("still", "here"));
    let daemon = scratch.watcher(&[]);
    (scratch, daemon)
}

/// Runs a shell script in the source and waits for the replica. Comparing takes its time too, and is not counted:
/// what counts is when the replica's comparison that succeeded began.
#[track_caller]
fn follow(scratch: &Scratch, script: &str) {
    let run = Command::new("sh").args(["-ec", script]).current_dir(scratch.source()).output().unwrap();
    assert!(run.status.success(), "{script}\n{}", String::from_utf8_lossy(&run.stderr));
    let done = Instant::now();
    loop {
        let begun = done.elapsed();
        if are_twins(&scratch.source(), &scratch.replica()) {
            println!("{script}: equal after at most {begun:.2?}");
            return;
        }
        if begun > PROMISE {
            scratch.assert_twins();
        }
    }
}

#[test]
#[ignore = "takes half a minute"]
fn a_hundred_thousand_files_are_unpacked_and_removed() {
    let (scratch, _daemon) = live();
    let outside = scratch.path("outside");
    for number in 0..1_000 {
        Tree::new().files("", 100).make(&outside.join(format!("pack/{}/{number}", number % 7)));
    }
    let mut pack = Command::new("tar");
    pack.args(["cf", "pack.tar", "-C", "outside", "pack"]).current_dir(scratch.root());
    assert!(pack.status().unwrap().success());
    follow(&scratch, "tar xf ../pack.tar");
    follow(&scratch, "rm -rf pack");
}

#[test]
#[ignore = "takes half a minute"]
fn directories_that_are_filled_while_they_are_found_lose_nothing_in_three_hundred_rounds() {
    let (scratch, _daemon) = live();
    let outside = scratch.path("outside");
    Tree::new().files("t/one", 20).files("t/two/three", 20).make(&outside);
    for round in 0..300 {
        follow(
            &scratch,
            &format!(
                "mkdir -p r{round}/a/b/c && touch r{round}/a/b/c/f; cp -r ../outside/t c{round}; \
                 mv ../outside/t m{round}; cp -r m{round} ../outside/t"
            ),
        );
        if round % 10 == 9 {
            follow(&scratch, "rm -r r* c* m*");
        }
    }
}

#[test]
#[ignore = "takes half a minute"]
fn a_cargo_build_is_followed() {
    let (scratch, _daemon) = live();
    if Command::new("cargo").arg("--version").output().is_err() {
        return skip("no cargo");
    }
    follow(&scratch, "cargo -q init --vcs none --name built built");
    for build in ["cargo -q build --offline", "cargo -q test --offline", "cargo -q build --offline --release"]
    {
        follow(&scratch, &format!("cd built; env -u CARGO_TARGET_DIR {build}"));
    }
    follow(&scratch, "cd built; cargo -q clean --offline");
}
