//! When the kernel writes back what was changed in memory.

use std::sync::LazyLock;

use crate::model::task::Task;

/// How long a page that is written to through a mapping may stay so without another sign of it, in
/// seconds: the kernel sets a file's times when a page of it becomes dirty, and then not before
/// that was written back. See `Documentation/admin-guide/sysctl/vm.rst` of the kernel.
pub fn unseen_seconds() -> i64 {
    static SECONDS: LazyLock<i64> = LazyLock::new(|| {
        let centiseconds = |name| -> i64 {
            let text = std::fs::read_to_string(format!("/proc/sys/vm/{name}")).unwrap_or_default();
            // What Linux begins with.
            text.trim().parse().unwrap_or(if name == "dirty_expire_centisecs" {
                3_000
            } else {
                500
            })
        };
        (centiseconds("dirty_expire_centisecs") + centiseconds("dirty_writeback_centisecs") + 99)
            / 100
    });
    *SECONDS
}

/// How long after its last change a file may hold something else without a sign, in seconds, as far
/// as that matters to a walk: where it does not read all.
pub fn unseen_seconds_of(task: Task) -> i64 {
    if task == Task::Quick { unseen_seconds() } else { 0 }
}
