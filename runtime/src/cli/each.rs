//! Commands that do one thing to each of several containers: the names of those for which it
//! worked go to stdout, a sentence for each of the others to stderr.

use super::{Context, Failure, complain, print};
use crate::container::{Container, Containers};

/// Does it to each; the exit code is 1 when one fails.
pub fn container(
    context: &Context,
    names: &[String],
    mut act: impl FnMut(&Containers, Container) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let containers = context.containers()?;
    let mut exit_code = 0;
    for name in names {
        let done = containers
            .find(name)
            .map_err(Failure::from)
            .and_then(|container| act(&containers, container));
        match done {
            Ok(()) => print(format!("{name}\n").as_bytes())?,
            Err(failure) => {
                complain(&failure.message);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

/// Asks a container's monitor, and turns a refusal into a failure.
pub fn asked(
    container: &Container,
    request: &crate::control::Request,
) -> Result<crate::control::Reply, Failure> {
    use crate::control::{Error, Reply};
    match crate::control::ask(&container.dir, request) {
        Ok(Reply::Failed { exit_code, message }) => Err(Failure::new(exit_code, message)),
        Ok(reply) => Ok(reply),
        Err(Error::NotRunning) => {
            let id = container.config.id.as_str();
            Err(Failure::new(1, format!("Container {id} is not running")))
        }
        Err(error) => Err(error.into()),
    }
}
