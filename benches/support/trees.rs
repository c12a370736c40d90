//! Trees that benchmarks make, and their twins.

use std::fs;
use std::path::Path;
use std::process::Command;

use fastrand::Rng;

/// Makes a file of random bytes.
pub fn fill(path: &Path, size: usize, rng: &mut Rng) {
    let mut bytes = vec![0; size];
    rng.fill(&mut bytes);
    fs::write(path, bytes).expect("a file can be made");
}

/// Makes the replica equal, with another program than the one that is measured.
pub fn twin(source: &Path, replica: &Path) {
    let made = Command::new("cp").arg("-a").args([source, replica]).status();
    assert!(made.is_ok_and(|status| status.success()), "the replica can be made");
}
