//! The program: reads the command line, runs, and tells how it ended by its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    twindir::main()
}
