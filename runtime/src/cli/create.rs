//! `cowl create`.

use super::create_options::{self, Created, Options};
use super::{Context, Failure, note, print};

/// `cowl create`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    #[command(flatten)]
    create: Options,
}

/// Makes a container, to be started later, and prints its id.
pub fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    args.create.attached()?;
    let Created { mut container, lock, .. } = create_options::create(args.create, context)?;
    container.state.to_be_started = false;
    container.save()?;
    drop(lock);
    note::container(context, "create", &container, &[]);
    print(format!("{}\n", container.config.id.as_str()).as_bytes())?;
    Ok(0)
}
