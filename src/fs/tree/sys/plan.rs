//! Decides by a seed which system calls of a thread fail, and how.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use fastrand::Rng;
use rustix::io::{Errno, Result};

thread_local! {
    static PLAN: RefCell<Option<Rc<RefCell<FaultPlan>>>> = const { RefCell::new(None) };
}

struct FaultPlan {
    rng: Rng,
    /// On average, one call in `one_in` fails.
    one_in: u32,
    met: usize,
    tale: Vec<String>,
}

/// A guard that makes system calls on entries fail on this thread, as long as it lives.
pub struct InjectedErrors(Rc<RefCell<FaultPlan>>);

impl InjectedErrors {
    /// Begins to inject errors: on average, one call in `one_in` fails.
    pub fn begin(seed: u64, one_in: u32) -> Self {
        let plan = FaultPlan { rng: Rng::with_seed(seed), one_in, met: 0, tale: Vec::new() };
        let plan = Rc::new(RefCell::new(plan));
        PLAN.set(Some(Rc::clone(&plan)));
        Self(plan)
    }

    /// Returns the seeds to try. Their number is `usual`, or the value of `TWINDIR_SEEDS`.
    pub fn seeds(usual: u64) -> Range<u64> {
        0..std::env::var("TWINDIR_SEEDS").map_or(usual, |seeds| seeds.parse().unwrap())
    }

    /// Returns how many calls have failed or were cut short.
    pub fn met(&self) -> usize {
        self.0.borrow().met
    }

    /// Returns the calls that have failed or were cut short since this was called last.
    pub fn tale(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().tale)
    }
}

impl Drop for InjectedErrors {
    fn drop(&mut self) {
        PLAN.set(None);
    }
}

impl FaultPlan {
    fn is_due(&mut self) -> bool {
        self.rng.u32(..self.one_in) == 0
    }

    fn tell(&mut self, call: &str, how: &str) {
        self.met += 1;
        self.tale.push(format!("{call}: {how}"));
    }
}

/// Asks the plan of this thread, if there is one.
fn asked<T>(ask: impl FnOnce(&mut FaultPlan) -> Option<T>) -> Option<T> {
    PLAN.with_borrow(|plan| plan.as_ref().and_then(|plan| ask(&mut plan.borrow_mut())))
}

/// Makes a system call by `work`, or makes it fail. With an error of `before`, nothing is done.
/// With an error of `after`, the call is done all the same, as on a server whose first answer was
/// lost.
pub fn attempt<T>(
    call: &str,
    before: &[Errno],
    after: &[Errno],
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let fault = asked(|plan| {
        let at = plan.is_due().then(|| plan.rng.usize(..before.len() + after.len()))?;
        let (errno, is_done) = (*before.iter().chain(after).nth(at)?, at >= before.len());
        let reason = std::io::Error::from(errno).kind();
        plan.tell(call, &format!("{reason}{}", if is_done { ", and is done" } else { "" }));
        Some((errno, is_done))
    });
    match fault {
        None => work(),
        Some((errno, false)) => Err(errno),
        Some((errno, true)) => work().and(Err(errno)),
    }
}

/// Returns how many of `len` bytes a call handles: sometimes fewer than `len`, but at least one.
pub fn shortened(call: &str, len: usize) -> usize {
    let short = asked(|plan| {
        let short = (len > 1 && plan.is_due()).then(|| plan.rng.usize(1..len))?;
        plan.tell(call, &format!("{short} of {len} bytes"));
        Some(short)
    });
    short.unwrap_or(len)
}
