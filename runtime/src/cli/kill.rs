//! `cowl kill`.

use super::attached::is_an_end;
use super::{Context, Failure, each};
use crate::container::{Status, life};
use crate::control::Request;

/// `cowl kill`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Sends a signal to PID 1 of each container. After SIGKILL, waits for the end.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let number = life::signal(&args.signal)
        .map_err(|_| Failure::new(1, format!("Invalid signal: {}", args.signal)))?;
    each::container(context, &args.containers, |containers, container| {
        let config = &container.config;
        let refused = |reason: &str| {
            let name = &config.name;
            Failure::new(1, format!("cannot kill container: {name}: {reason}"))
        };
        if matches!(container.state.status, Status::Created { .. } | Status::Exited { .. }) {
            return Err(refused(&format!("container {} is not running", config.id.as_str())));
        }
        let by_user = is_an_end(number, config.life.stop_signal());
        each::asked(&container, &Request::Signal { number, by_user })
            .map_err(|failure| refused(&failure.message))?;
        if number == nix::libc::SIGKILL {
            containers.wait_for_end(&container)?;
        }
        Ok(())
    })
}
