//! `cowlfs`: mounts a union of layers. All of it is in the library.

fn main() -> std::process::ExitCode {
    cowl_fs::cli::main(std::env::args_os().skip(1).collect())
}
