//! `cowl update`: other limits and another restart policy for containers, also while they run.

use super::create_options::limits::Changeable;
use super::{Context, Failure, complain, each, note};
use crate::cgroup::Group;
use crate::container::life::Restart;
use crate::container::{Container, Containers};
use crate::control::Request;

/// `cowl update`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    limits: Changeable,
    /// Whether it is started again when it ends: `no`, `on-failure:3`, `always`, `unless-stopped`
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

fn update(
    args: &Args,
    containers: &Containers,
    container: &Container,
    context: &Context,
) -> Result<(), Failure> {
    let before = &container.config.limits;
    // What is wrong with a limit is no failure of a start here.
    let limits =
        args.limits.over(before.clone()).map_err(|failure| Failure { exit_code: 1, ..failure })?;
    let restart = args.restart.as_deref().map(Restart::parse).transpose()?;
    if container.config.remove && restart.is_some_and(|restart| restart != Restart::default()) {
        let id = container.config.id.as_str();
        let why = format!("Cannot update container {id}: it is removed when it ends (--rm)");
        return Err(Failure::new(1, why));
    }
    let changed = containers.reconfigure(container, |config| {
        config.limits = limits.clone();
        config.life.restart = restart.unwrap_or(config.life.restart);
    })?;
    if changed.state.status.live().is_some() {
        each::asked(&changed, &Request::Reload)?;
        if *before != limits {
            for warning in Group::open(&changed.config).update(&limits) {
                complain(&format!("WARNING: {warning}"));
            }
        }
    }
    note::container(context, "update", &changed, &[]);
    Ok(())
}

/// Changes each of them; those that can be are changed, whatever is wrong with others.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    each::container(context, &args.containers, |containers, container| {
        update(args, containers, &container, context)
    })
}
