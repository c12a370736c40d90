//! Random tests of watcher and shim: with events that the kernel would report of a tree, and with
//! events that it never would.

mod follower;
mod kernel;

use crossbeam_channel::{Receiver, unbounded};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::path::testing::name;
use crate::properties::holds;
use follower::Follower;
use kernel::Record;

const ROOT: &str = "/s";

/// Returns a thread that reads nothing by itself, and the channel on which it reports.
fn thread() -> (Thread<impl EventHandler>, Receiver<Event>) {
    let (out, told) = unbounded();
    let handler = move |event: notify::Result<Event>| _ = out.send(event.unwrap());
    let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    let end = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let state = WatchState { root: ROOT.into(), ..WatchState::default() };
    let registry = Arc::new(Registry {
        queue,
        end,
        nothing: memfd_create("nothing", MemfdFlags::CLOEXEC).unwrap(),
        count: AtomicUsize::new(0),
        known: Mutex::new(state),
    });
    (Thread { registry, handler, half: None, pace: super::Pace::new() }, told)
}

/// A change of the tree, or a step of the program while the tree changes.
#[derive(Clone, Debug)]
enum TestStep {
    Create(u8, Name),
    MakeDir(u8, Name),
    Write(u8),
    Remove(u8, bool),
    Rename(u8, u8, Name),
    Exchange(u8, u8),
    Removable(u8),
    Return(u8, u8, Name),
    /// Read this many of the kernel's records.
    Read(usize),
    /// Do one check, or one step of a walk.
    Act(u8),
}

fn steps() -> impl Strategy<Value = Vec<TestStep>> {
    let any = any::<u8>;
    let names = || select(["a", "b", "c"].map(name).to_vec());
    let step = prop_oneof![
        2 => (any(), names()).prop_map(|(dir, name)| TestStep::Create(dir, name)),
        4 => (any(), names()).prop_map(|(dir, name)| TestStep::MakeDir(dir, name)),
        2 => any().prop_map(TestStep::Write),
        2 => (any(), proptest::bool::ANY).prop_map(|(at, first)| TestStep::Remove(at, first)),
        6 => (any(), any(), names()).prop_map(|(at, dir, name)| TestStep::Rename(at, dir, name)),
        2 => (any(), any()).prop_map(|(one, other)| TestStep::Exchange(one, other)),
        1 => any().prop_map(TestStep::Removable),
        1 => (any(), any(), names()).prop_map(|(at, dir, name)| TestStep::Return(at, dir, name)),
        6 => (1..6_usize).prop_map(TestStep::Read),
        14 => any().prop_map(TestStep::Act),
    ];
    vec(step, 0..120)
}

#[test]
fn whatever_happens_no_path_is_lost_and_each_directory_is_known_by_its_own() {
    holds(&steps(), |steps| {
        let (thread, told) = thread();
        let mut follower = Follower::new(thread, told);
        for step in steps {
            follower.step(step);
        }
        follower.settle();
        follower.verify_twins();
        follower.verify_places();
    });
}

/// Returns any record. Watches, names and cookies are few, so that they coincide. Any flags are
/// set.
fn record() -> impl Strategy<Value = Record> {
    let flags = [
        ReadFlags::CREATE,
        ReadFlags::DELETE,
        ReadFlags::MOVED_FROM,
        ReadFlags::MOVED_TO,
        ReadFlags::MOVE_SELF,
        ReadFlags::DELETE_SELF,
        ReadFlags::IGNORED,
        ReadFlags::UNMOUNT,
        ReadFlags::QUEUE_OVERFLOW,
        ReadFlags::ATTRIB,
    ];
    let one = select(flags.to_vec());
    let flags = prop_oneof![8 => one, 1 => any::<u32>().prop_map(ReadFlags::from_bits_retain)];
    let name = proptest::option::weighted(
        0.7,
        select(["a", "b", "..", "a/b"].map(str::to_owned).to_vec()),
    );
    (-2..8_i32, flags, 0..3_u32, name).prop_map(|(wd, flags, cookie, name)| Record {
        wd,
        flags,
        cookie,
        name,
    })
}

#[test]
fn whatever_the_kernel_says_what_is_told_lies_in_the_source() {
    let place =
        (0..8_i32, select(["", "a", "b", "a/b", "a/a", "b/a/b"].map(str::to_owned).to_vec()));
    let told_or_placed = prop_oneof![3 => record().prop_map(Ok), 1 => place.prop_map(Err)];
    holds(&vec(told_or_placed, 0..80), |all| {
        let (mut thread, told) = thread();
        let registry = Arc::clone(&thread.registry);
        registry.known().places.register(0, &RelPath::root());
        for one in all {
            match one {
                Ok(record) => record.give(&mut thread),
                Err((wd, path)) => {
                    let path = RelPath::new(path.as_bytes()).unwrap();
                    registry.known().put(wd, &path, || wd % 2 == 0);
                }
            }
        }
        thread.report_half();
        thread.remove_useless();
        for path in told.try_iter().flat_map(|event| event.paths) {
            assert!(relative(&path, Path::new(ROOT)).is_some(), "{path:?}");
        }
    });
}
