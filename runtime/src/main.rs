//! `cowl`, the command line of the container engine.

use std::process::ExitCode;

fn main() -> ExitCode {
    cowl::cli::main()
}
