//! `cowl restart`.

use super::{Context, Failure, begin, each, stop};
use crate::container::life;

/// `cowl restart`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Send this signal instead of the container's own
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds to wait before killing it; -1 for without end
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    time: Option<i64>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Stops each container and starts it again.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let signal = args.signal.as_deref().map(life::signal).transpose()?;
    each::container(context, &args.containers, |containers, container| {
        stop::stop(containers, &container, signal, args.time)?;
        let Some((container, lock)) = containers.claim(&container)? else {
            return Ok(()); // somebody else has started it meanwhile
        };
        begin::start(context, containers, &container, lock, None).map(drop)
    })
}
