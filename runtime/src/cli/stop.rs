//! `cowl stop`, and the first half of `restart`.

use super::{Context, Failure, each};
use crate::container::{Container, Containers, life};
use crate::control::{self, Connection, Reply, Request};

/// `cowl stop`
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

/// Ends a container and waits for the end; one that does not run is left alone.
pub fn stop(
    containers: &Containers,
    container: &Container,
    signal: Option<i32>,
    patience: Option<i64>,
) -> Result<(), Failure> {
    let connection = match Connection::open(&container.dir) {
        Ok(connection) => connection,
        Err(control::Error::NotRunning) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    connection.ask(&Request::Stop { signal, patience }, &[])?;
    loop {
        match connection.reply() {
            Ok((Reply::Ended { .. }, _)) => return Ok(()),
            Ok((Reply::Failed { exit_code, message }, _)) => {
                return Err(Failure::new(exit_code, message));
            }
            Ok(_) => {}
            Err(control::Error::Gone) => {
                // Killed, and the container with it.
                containers.wait_for_end(container)?;
                containers.reclaim()?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Stops each container.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let signal = args.signal.as_deref().map(life::signal).transpose()?;
    each::container(context, &args.containers, |containers, container| {
        stop(containers, &container, signal, args.time)
    })
}
