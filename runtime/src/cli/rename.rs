//! `cowl rename`.

use super::{Context, Failure, note};

/// `cowl rename`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The new name
    #[arg(value_name = "NEW_NAME")]
    name: String,
}

/// Gives a container another name.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let containers = context.containers()?;
    let container = containers.find(&args.container)?;
    let old = format!("/{}", container.config.name);
    let renamed = containers.rename(&container, &args.name)?;
    note::container(context, "rename", &renamed, &[("oldName", &old)]);
    Ok(0)
}
