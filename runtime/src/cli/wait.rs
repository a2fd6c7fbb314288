//! `cowl wait`.

use super::{Context, Failure, complain, print};
use crate::container::{Container, Containers, KILLED, Status};
use crate::control::{self, Connection, Reply, Request};

/// `cowl wait`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Waits until a container does not run; its exit code.
pub fn wait(containers: &Containers, container: &Container) -> Result<u8, Failure> {
    let asked = Connection::open(&container.dir)
        .and_then(|connection| connection.ask(&Request::Wait, &[]).map(|()| connection));
    match asked {
        Ok(connection) => loop {
            match connection.reply() {
                Ok((Reply::Ended { exit_code, .. }, _)) => return Ok(exit_code),
                Ok(_) => {}
                Err(control::Error::Gone) => break,
                Err(error) => return Err(error.into()),
            }
        },
        Err(control::Error::NotRunning | control::Error::Gone) => {}
        Err(error) => return Err(error.into()),
    }
    // It has ended before, or its monitor was killed: the disk knows.
    containers.wait_for_end(container)?;
    containers.reclaim()?;
    let found = match containers.find(container.config.id.as_str()) {
        Ok(found) => found,
        Err(crate::container::Error::Unknown(_)) => return Ok(KILLED),
        Err(error) => return Err(error.into()),
    };
    Ok(match found.state.status {
        Status::Created { exit_code } => exit_code.unwrap_or(0),
        _ => found.state.exit_code().unwrap_or(KILLED),
    })
}

/// Prints the exit code of each container when it has ended.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let containers = context.containers()?;
    let mut result = 0;
    for name in &args.containers {
        let code = containers
            .find(name)
            .map_err(Failure::from)
            .and_then(|container| wait(&containers, &container));
        match code {
            Ok(code) => print(format!("{code}\n").as_bytes())?,
            Err(failure) => {
                complain(&failure.message);
                result = 1;
            }
        }
    }
    Ok(result)
}
