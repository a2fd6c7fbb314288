//! `cowl network rm`

use super::networks;
use crate::cli::{Context, Failure, print};
use crate::network::{Error, catalog};

/// Remove networks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A network that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Removes those that can be, and says why the others cannot.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let networks = networks(context)?;
    let mut failures = Vec::new();
    for name in &args.networks {
        if matches!(name.as_str(), "host" | "none") {
            failures.push(Error::Predefined(name.clone()).to_string());
            continue;
        }
        match catalog::remove(&networks, name) {
            Ok(_) => print(format!("{name}\n").as_bytes())?,
            Err(Error::Unknown(_)) if args.force => {}
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::new(1, failures.join("\ncowl: "))) }
}
