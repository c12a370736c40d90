use super::*;
use crate::model::path::testing::{name, path};
use std::time::Duration;

fn look(since: Instant) -> Check {
    Check::new(Depth::Content, Detector::Sweep, since)
}

const ALL: BatchLimit = BatchLimit { names: 1000, dirs: 1000 };

fn taken(queue: &mut Queue, portion: BatchLimit) -> Vec<String> {
    let checks = queue.take(Detector::Sweep, portion);
    checks
        .iter()
        .flat_map(|(dir, names)| names.keys().map(move |name| dir.join(name).to_string()))
        .collect()
}

#[test]
fn a_name_reported_twice_is_taken_once_with_the_wider_look_and_both_times() {
    let (old, new) = (Instant::now(), Instant::now() + Duration::from_secs(1));
    let mut queue = Queue::default();
    queue.push_path(&path("a/x"), Check { depth: Depth::Subtree, ..look(old) });
    queue.push_path(&path("a/x"), look(new));
    assert_eq!(queue.count_sweep_names(), 1);
    let checks = queue.take(Detector::Sweep, ALL);
    let merged = &checks[&path("a")][&name("x")];
    assert_eq!((merged.depth, merged.first, merged.since), (Depth::Subtree, old, new));
    assert_eq!(queue.count_sweep_names(), 0);
    assert!(!queue.has_ready(Detector::Sweep));
}

#[test]
fn a_portion_splits_a_wide_directory_and_loses_nothing() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for i in 0..5 {
        queue.push_path(&path(&format!("wide/{i}")), look(now));
    }
    queue.push_path(&path("other/x"), look(now));
    let portion = BatchLimit { names: 2, dirs: 10 };
    assert_eq!(taken(&mut queue, portion), ["wide/0", "wide/1"]);
    assert_eq!(
        taken(&mut queue, portion),
        ["other/x", "wide/2"],
        "others do not wait for the rest"
    );
    assert_eq!(taken(&mut queue, portion), ["wide/3", "wide/4"]);
    assert_eq!(taken(&mut queue, portion), [""; 0]);
}

#[test]
fn one_name_waits_for_a_few_of_each_wide_directory_only() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for i in 0..3_000 {
        queue.push_path(&path(&format!("wide{}/{i}", i % 3)), look(now));
    }
    queue.push_path(&path("other/x"), look(now));
    let portion = BatchLimit { names: 512, dirs: 64 };
    let first = queue.take(Detector::Sweep, portion);
    assert!(first.contains_key(&path("other")));
    assert_eq!(
        first.values().map(BTreeMap::len).sum::<usize>(),
        512,
        "and the rest is for the wide ones"
    );
    assert_eq!(queue.count_sweep_names(), 3_001 - 512);
}

#[test]
fn a_portion_bounds_the_directories() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for i in 0..5 {
        queue.push_path(&path(&format!("d{i}/x")), look(now));
    }
    assert_eq!(queue.take(Detector::Sweep, BatchLimit { names: 100, dirs: 3 }).len(), 3);
    assert_eq!(queue.take(Detector::Sweep, BatchLimit { names: 100, dirs: 3 }).len(), 2);
}

#[test]
fn later_work_comes_when_its_time_has_come() {
    let now = Instant::now();
    let due = now + Duration::from_secs(5);
    let mut queue = Queue::default();
    queue.push_later(due, path("a"), look(now));
    queue.wake(now);
    assert!(!queue.has_ready(Detector::Sweep));
    assert_eq!(queue.next_due(), Some(due));
    queue.wake(due);
    assert_eq!(taken(&mut queue, ALL), ["a"]);
}

#[test]
fn a_path_waits_for_one_time_only() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for seconds in 1..=100 {
        queue.push_later(now + Duration::from_secs(seconds), path("a"), look(now));
    }
    assert_eq!((queue.later.by_time.len(), queue.later.due.len()), (1, 1));
    queue.wake(now + Duration::from_secs(100));
    assert_eq!(taken(&mut queue, ALL), ["a"]);
    assert_eq!((queue.later.by_time.len(), queue.later.due.len()), (0, 0));
}

#[test]
fn what_rests_is_the_watchs_once_the_watch_tells_of_it() {
    let now = Instant::now();
    let due = now + Duration::from_secs(1);
    let mut queue = Queue::default();
    for name in ["told", "missed"] {
        queue.push_resting(due, path(name), look(now));
    }
    assert_eq!(queue.count_sweep_names(), 2);
    queue.push_watched(&path("told"), Check { detector: Detector::Watch, ..look(now) }, now);
    assert_eq!(queue.take(Detector::Watch, ALL).len(), 1);
    assert!(!queue.has_ready(Detector::Sweep));
    assert_eq!((queue.count_sweep_names(), queue.next_due()), (1, Some(due)));
    queue.wake(due);
    assert_eq!(taken(&mut queue, ALL), ["missed"]);
    assert_eq!((queue.count_sweep_names(), queue.count_resting()), (0, 0));
}

#[test]
fn what_is_found_again_rests_no_longer_for_that() {
    let now = Instant::now();
    let due = now + Duration::from_millis(70);
    let mut queue = Queue::default();
    queue.cool(path("saved"), Duration::from_millis(90), now);
    queue.push_watched(&path("saved"), Check { detector: Detector::Watch, ..look(now) }, now);
    for seconds in 1..=3 {
        queue.push_resting(now + Duration::from_secs(seconds), path("saved"), look(now));
        assert_eq!((queue.next_due(), queue.count_resting()), (Some(due), 1));
    }
    queue.wake(due);
    assert_eq!(queue.take(Detector::Watch, ALL).len(), 1);
}

#[test]
fn a_hot_file_waits_and_others_do_not() {
    let now = Instant::now();
    let millis = |millis| now + Duration::from_millis(millis);
    let mut queue = Queue::default();
    let told = |queue: &mut Queue, name: &str, time| {
        queue.push_watched(&path(name), Check { detector: Detector::Watch, ..look(time) }, time);
        queue.wake(time);
        queue.take(Detector::Watch, ALL).len()
    };
    assert_eq!(told(&mut queue, "log", now), 1, "the first time it goes at once");
    queue.cool(path("log"), Duration::from_millis(100), now);
    assert_eq!(told(&mut queue, "log", millis(10)), 0);
    assert_eq!(told(&mut queue, "log", millis(90)), 0);
    assert_eq!(told(&mut queue, "other", millis(90)), 1, "others do not wait");
    assert_eq!(queue.next_due(), Some(millis(100)), "it is told all the time, and waits no longer");
    queue.wake(millis(100));
    assert_eq!(queue.take(Detector::Watch, ALL).len(), 1);
    // Quick work leads to a wait, too.
    queue.cool(path("log"), Duration::ZERO, millis(100));
    assert_eq!(told(&mut queue, "log", millis(149)), 0);
    assert_eq!(told(&mut queue, "log", millis(150)), 1);
}

#[test]
fn what_was_due_first_comes_first_also_while_it_cools_and_is_told_again() {
    let begun = Instant::now();
    let after = |millis| begun + Duration::from_millis(millis);
    let mut queue = Queue::default();
    queue.cool(path("d/log"), Duration::from_millis(500), begun);
    for time in [after(10), after(30)] {
        queue.push_watched(&path("d/log"), Check::new(Depth::Content, Detector::Watch, time), time);
    }
    assert!(!queue.has_ready(Detector::Watch));
    let comes_first = |queue: &Queue, dir, by| queue.comes_first_within(&path(dir), Some(by));
    assert!(comes_first(&queue, "d", after(20)));
    assert!(!comes_first(&queue, "d", after(5)), "it was due later");
    assert!(!comes_first(&queue, "d/log", after(20)), "nothing is below it");
    queue.wake(after(10_000));
    assert!(comes_first(&queue, "d", after(20)));
    queue.take(Detector::Watch, ALL);
    assert!(!comes_first(&queue, "d", after(20)));
}

#[test]
fn too_many_names_become_a_scan_of_the_widest_directory_and_then_of_all() {
    let now = Instant::now();
    let watched = |queue: &mut Queue, text: &str| {
        queue.push_watched(&path(text), Check { detector: Detector::Watch, ..look(now) }, now)
    };
    let mut queue = Queue::default();
    for number in 0..MOST / 2 {
        let wide = number % CROWD;
        assert_eq!(watched(&mut queue, &format!("wide{}/{wide}", number / CROWD)), None);
        assert_eq!(watched(&mut queue, &format!("{number}/narrow")), None);
    }
    assert!(
        matches!(watched(&mut queue, "one/more"), Some(CoarseCheck::Names(wide)) if wide.to_string().starts_with("wide"))
    );
    for _ in 1..MOST / 2 / CROWD {
        assert!(matches!(queue.watch.coarsen(), CoarseCheck::Names(_)));
    }
    for number in 0..MOST / 2 - 1 {
        assert_eq!(watched(&mut queue, &format!("{number}/second")), None);
    }
    assert_eq!(watched(&mut queue, "last/straw"), Some(CoarseCheck::Below(RelPath::root())));
    assert!(!queue.has_ready(Detector::Watch) || queue.take(Detector::Watch, ALL).is_empty());
}

#[test]
fn too_many_names_of_one_directory_become_a_look_at_that() {
    let now = Instant::now();
    let mut queue = Queue::default();
    let watched = |queue: &mut Queue, text: &str| {
        queue.push_watched(&path(text), Check { detector: Detector::Watch, ..look(now) }, now)
    };
    assert_eq!(watched(&mut queue, "other/x"), None);
    for number in 0..CROWD {
        assert_eq!(watched(&mut queue, &format!("d/{number}")), None);
    }
    assert_eq!(watched(&mut queue, "d/more"), Some(CoarseCheck::Names(path("d"))));
    assert_eq!(queue.watch.names, 1);
    let left = queue.take(Detector::Watch, ALL);
    assert_eq!(left.keys().collect::<Vec<_>>(), [&path("other")]);
}

#[test]
fn the_root_itself_can_be_looked_at() {
    let mut queue = Queue::default();
    queue.push_path(&RelPath::root(), look(Instant::now()));
    assert!(queue.has_ready(Detector::Sweep));
    assert_eq!(queue.take(Detector::Sweep, ALL).get(&RelPath::root()), Some(&BTreeMap::new()));
}

#[test]
fn parked_work_waits_until_it_is_let_go() {
    let mut queue = Queue::default();
    queue.await_worker(path("big"), look(Instant::now()));
    assert!(queue.count_sweep_names() == 1 && !queue.has_ready(Detector::Sweep));
    queue.await_worker(path("bigger"), look(Instant::now()));
    queue.requeue_awaiting_workers(1);
    assert_eq!(taken(&mut queue, ALL), ["big"]);
    assert_eq!(queue.count_sweep_names(), 1);
}
