//! `cowl rm`.

use super::{Context, Failure, complain, print};

/// `cowl rm`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kill containers that run
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes each container that can be removed; fails when one cannot.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let containers = context.containers()?;
    let mut exit_code = 0;
    for wanted in &args.containers {
        match containers.remove(wanted, args.force) {
            Ok(()) => print(format!("{wanted}\n").as_bytes())?,
            Err(error) => {
                complain(&error.to_string());
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}
