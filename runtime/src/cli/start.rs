//! `cowl start`.

use super::attached::Outcome;
use super::{Context, Failure, begin, each, print};
use crate::container::Status;
use crate::terminal::DetachKeys;

/// `cowl start`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Attach stdout and stderr, and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach stdin, too
    #[arg(short, long)]
    interactive: bool,
    /// The keys that part the terminal from the container [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Starts each container.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let keys = DetachKeys::parse(&args.detach_keys)?;
    if !args.attach && !args.interactive {
        return each::container(context, &args.containers, |containers, container| {
            if let Status::Paused(_) = container.state.status {
                return Err(Failure::new(
                    1,
                    "cannot start a paused container, try unpause instead",
                ));
            }
            let Some((container, lock)) = containers.claim(&container)? else {
                return Ok(()); // it runs
            };
            begin::start(context, containers, &container, lock, None).map(drop).map_err(one)
        });
    }
    let [name] = args.containers.as_slice() else {
        return Err(Failure::new(1, "you cannot start and attach multiple containers at once"));
    };
    let containers = context.containers()?;
    let container = containers.find(name)?;
    let Some((container, lock)) = containers.claim(&container)? else {
        return super::attach::to_running(context, &containers, &container, args.interactive, keys);
    };
    let wanted = begin::Wanted {
        stdin: args.interactive && container.config.process.stdin,
        stdout: true,
        stderr: true,
        keys,
        forward: true,
    };
    match begin::start(context, &containers, &container, lock, Some(wanted)).map_err(one)? {
        Outcome::Ended(code) => Ok(code),
        Outcome::Parted => {
            print(b"read escape sequence\n")?;
            Ok(0)
        }
    }
}

/// Docker's exit code for a start that fails: 1, whatever it was.
fn one(failure: Failure) -> Failure {
    Failure::new(1, failure.message)
}
