//! A process that is stopped for a while, clocks that jump, directories without measure, and hours
//! of changes.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use crate::support::{
    Background, Churn, DEADLINE, Daemon, Live, Peak, Scratch, Tree, Usage, are_twins, how_many,
    is_stopped, wait_until,
};
use rustix::process::Signal;

fn churn(scratch: &Scratch, seed: u64) -> Background<Churn> {
    Background::start(Churn::new(scratch.source(), seed), |churn| {
        churn.step();
        // So that there is something to be done between the changes.
        std::thread::sleep(Duration::from_millis(1));
    })
}

/// Lets the daemon sleep in the midst of changes, and sees that it makes up for it.
#[track_caller]
fn assert_made_up_for(sleep: Duration) {
    let live = Live::of(&Tree::new().file("f", "f"));
    let churn = churn(&live.scratch, 21);
    wait_until("something is followed", DEADLINE, || live.copy("d0").exists());
    live.daemon.signal(Signal::STOP);
    wait_until("it is stopped", DEADLINE, || is_stopped(live.daemon.pid()));
    // What it sleeps through, and so a time that is meant.
    std::thread::sleep(sleep);
    live.daemon.signal(Signal::CONT);
    live.answer("f");
    drop(churn.stop());
    let rested = Instant::now();
    live.wait();
    println!("equal {:.1?} after the last change", rested.elapsed());
    live.answer("f");
    assert!(!live.daemon.stderr().contains(" problem "), "{}", live.daemon.stderr());
}

#[test]
fn a_process_that_is_stopped_for_a_while_makes_up_for_it() {
    assert_made_up_for(Duration::from_secs(3));
}

#[test]
#[ignore = "takes ten seconds and more"]
fn a_process_that_is_stopped_for_long_makes_up_for_it() {
    assert_made_up_for(Duration::from_secs(10));
}

/// Of a file system, a clock that jumps is files that were written in the future, and then in the
/// past. The machine's own clock is everybody's.
#[test]
fn times_that_jump_ahead_and_back_are_followed() {
    let live = Live::of(&Tree::new().files("d", 10));
    let hour = Duration::from_secs(3_600);
    let churn = churn(&live.scratch, 22);
    let now = SystemTime::now();
    for (round, time) in
        [now + hour, now - hour, now + 24 * hour, now, now - 24 * hour].into_iter().enumerate()
    {
        for number in 0..10 {
            // Of one size, so that the time alone tells one from the other, and then not even that.
            let path = live.at(&format!("d/f{number}"));
            fs::write(&path, format!("round {round}")).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        let shown = || {
            (0..10).all(|number| {
                let copy = live.copy(&format!("d/f{number}"));
                fs::read(&copy).is_ok_and(|text| text == format!("round {round}").as_bytes())
                    && fs::metadata(&copy).is_ok_and(|copy| copy.modified().unwrap() == time)
            })
        };
        wait_until("all ten are there", DEADLINE, shown);
    }
    drop(churn.stop());
    live.wait();
    assert!(live.daemon.stderr().is_empty(), "{}", live.daemon.stderr());
}

/// What it uses while changes go on, seen several times a second.
fn peak_over(daemon: &mut Daemon, time: Duration) -> Peak {
    let mut peak = Peak::default();
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(daemon.is_running(), "it has ended");
        peak.see(Usage::of(daemon.pid()));
        std::thread::sleep(Duration::from_millis(100));
    }
    peak
}

#[test]
#[ignore = "takes half an hour, or as many minutes as TWINDIR_MINUTES says"]
fn changes_without_end_cost_no_more_memory_descriptors_or_threads() {
    let scratch = Scratch::roomy().with_source(&Tree::new().file("f", "f"));
    let third = Duration::from_secs(20 * how_many("TWINDIR_MINUTES", 30));
    let mut daemon = Daemon::spawn(scratch.command(["source", "replica", "20", "log"]));
    daemon.wait_settled(1);
    let churn = churn(&scratch, 23);
    let peaks = [0; 3].map(|_| {
        let peak = peak_over(&mut daemon, third);
        println!("{peak:?}, {} sweeps", daemon.sweeps());
        peak
    });
    let churn = churn.stop();
    println!("{} changes", churn.steps);
    let [_, warm, end] = peaks;
    // What lies in the allocator, and as many threads as happen to be at work.
    assert!(end.memory <= warm.memory + warm.memory / 5 + 4_000_000, "{peaks:?}");
    assert!(end.descriptors <= warm.descriptors + 16, "{peaks:?}");
    assert!(end.threads <= warm.threads + 2, "{peaks:?}");
    assert!(daemon.sweeps() >= 2, "the sweeps did not come");
    scratch.wait_twins();
    assert_no_problem_left(&scratch, &daemon);
}

/// All that was said to be wrong is said to be over.
#[track_caller]
fn assert_no_problem_left(scratch: &Scratch, daemon: &Daemon) {
    let told = |text: String, word: &str| text.lines().filter(|line| line.contains(word)).count();
    let left = || {
        told(daemon.stderr(), " problem ").saturating_sub(told(daemon.stdout(), " resolved "))
            + usize::from(!are_twins(&scratch.source(), &scratch.replica()))
    };
    wait_until("no problem is left", DEADLINE, || left() == 0);
}

#[test]
#[ignore = "takes a minute, and half a million inodes twice"]
fn a_save_among_half_a_million_files_is_as_fast_as_elsewhere() {
    let scratch = Scratch::roomy();
    let crowd = scratch.source().join("crowd");
    fs::create_dir_all(&crowd).unwrap();
    for number in 0..how_many("TWINDIR_FILES", 500_000) {
        fs::write(crowd.join(format!("f{number}")), "one of many").unwrap();
    }
    fs::write(scratch.source().join("alone"), "alone").unwrap();
    let daemon = scratch.starting_watcher(&[]);
    wait_until("it has begun to rest", 10 * DEADLINE, || daemon.settled() >= 1);
    let live = Live { daemon, scratch };
    let median = |name: &str| {
        let mut times: Vec<_> = (0..21).map(|_| live.answer(name)).collect();
        times.sort_unstable();
        times[10]
    };
    let (alone, old, new) = (median("alone"), median("crowd/f77"), median("crowd/new"));
    println!("a save alone {alone:.1?}, among many {old:.1?}, of a new name among them {new:.1?}");
    for crowded in [old, new] {
        assert!(
            crowded <= 2 * alone + Duration::from_millis(20),
            "{crowded:?} among many, {alone:?} elsewhere"
        );
    }
}
