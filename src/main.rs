//! The program. Reads the command line, runs, and reports the result by its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    twindir::main()
}
