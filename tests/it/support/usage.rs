//! What the kernel says that a process uses.

use std::fs;
use std::time::Duration;

/// A moment in the life of a process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// On a core so far, in the kernel and out of it, with threads that have ended; to 10 ms.
    pub cpu: Duration,
    /// Resident, in bytes.
    pub memory: u64,
    pub descriptors: usize,
    pub threads: u64,
}

impl Usage {
    #[track_caller]
    pub fn of(process: u32) -> Self {
        let dir = format!("/proc/{process}");
        let stat = fs::read_to_string(format!("{dir}/stat")).unwrap();
        // The name of the program, in parentheses, may hold anything. The numbers of the fields are
        // those of proc(5).
        let rest: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let field = |number: usize| rest[number - 3].parse::<u64>().unwrap();
        let status = fs::read_to_string(format!("{dir}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: u64 = resident.split_whitespace().next().unwrap().parse().unwrap();
        Self {
            cpu: Duration::from_millis(10 * (field(14) + field(15))),
            memory: 1024 * kilobytes,
            descriptors: fs::read_dir(format!("{dir}/fd")).unwrap().count(),
            threads: field(20),
        }
    }
}

/// The greatest of each over some time: a leak shows in it, and a moment of rest does not hide one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peak {
    pub memory: u64,
    pub descriptors: usize,
    pub threads: u64,
}

impl Peak {
    pub fn see(&mut self, usage: Usage) {
        self.memory = self.memory.max(usage.memory);
        self.descriptors = self.descriptors.max(usage.descriptors);
        self.threads = self.threads.max(usage.threads);
    }
}

/// Whether it is stopped by a signal.
pub fn is_stopped(process: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}
