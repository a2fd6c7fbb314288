//! `cowl pause` and `cowl unpause`.

use super::{Context, Failure, each};
use crate::control::Request;

/// `cowl pause`, `cowl unpause`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Freezes every process of each container.
pub fn pause(args: &Args, context: &Context) -> Result<u8, Failure> {
    each::container(context, &args.containers, |_, container| {
        each::asked(&container, &Request::Pause).map(drop)
    })
}

/// Lets them go on.
pub fn unpause(args: &Args, context: &Context) -> Result<u8, Failure> {
    each::container(context, &args.containers, |_, container| {
        each::asked(&container, &Request::Unpause).map(drop)
    })
}
