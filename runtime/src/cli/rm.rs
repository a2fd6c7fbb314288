//! `cowl rm`.

use super::{Context, Failure, complain, note, print};
use crate::container;

/// `cowl rm`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kill containers that run; a name that no container has is no error
    #[arg(short, long)]
    force: bool,
    /// Remove a link between containers (there are none)
    #[arg(short, long)]
    link: bool,
    /// Remove their anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes each container that can be removed; fails when one cannot.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    if args.link {
        return Err(Failure::new(1, "there are no links between containers to be removed"));
    }
    let containers = context.containers()?;
    let mut exit_code = 0;
    for wanted in &args.containers {
        let found = containers.find(wanted).ok();
        match containers.remove(wanted, args.force) {
            Ok(()) => {
                if let Some(found) = &found {
                    if args.volumes {
                        containers.release_volumes(&found.config)?;
                    }
                    note::container(context, "destroy", found, &[]);
                }
                print(format!("{wanted}\n").as_bytes())?;
            }
            Err(error) => {
                complain(&error.to_string());
                // Docker says so, and is content.
                if !(args.force && matches!(error, container::Error::Unknown(_))) {
                    exit_code = 1;
                }
            }
        }
    }
    Ok(exit_code)
}
