//! How long the kernel keeps changed pages in memory before it writes them back.

use std::sync::LazyLock;

use crate::model::task::Task;

/// Returns for how many seconds a file may change through a mapping without any sign. The kernel
/// sets a file's times when one of its pages becomes dirty, and not again before that page was
/// written back. See `Documentation/admin-guide/sysctl/vm.rst` of the kernel.
pub fn unseen_seconds() -> i64 {
    static SECONDS: LazyLock<i64> = LazyLock::new(|| {
        let centiseconds = |name| -> i64 {
            let text = std::fs::read_to_string(format!("/proc/sys/vm/{name}")).unwrap_or_default();
            // Linux's defaults.
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

/// Returns for how many seconds after its last change a file may change without any sign, as far as
/// that matters to a walk. It matters to quick sweeps only, since they do not read all files: 0 for
/// other tasks.
pub fn unseen_seconds_of(task: Task) -> i64 {
    if task == Task::Quick { unseen_seconds() } else { 0 }
}
