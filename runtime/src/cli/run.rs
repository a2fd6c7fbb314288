//! `cowl run`: a container is made, started, and followed or left alone.

use super::attached::Outcome;
use super::begin::{self, Wanted};
use super::create_options::{self, Created, Options};
use super::{Context, Failure, complain_bare, note, print};
use crate::monitor::ENGINE_ERROR;
use crate::terminal::{self, DetachKeys};

/// `cowl run`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Leave it alone when it has started, and print its id
    #[arg(short, long)]
    detach: bool,
    /// Forward signals
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    sig_proxy: bool,
    /// The keys that part the terminal from the container [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    detach_keys: String,
    #[command(flatten)]
    pub(super) create: Options,
}

/// Wraps an error before the command as Docker does: 125.
fn engine(error: impl ToString) -> Failure {
    Failure::new(ENGINE_ERROR, error)
}

/// Runs a container.
pub fn run(mut args: Args, context: &Context) -> Result<u8, Failure> {
    let keys = DetachKeys::parse(&args.detach_keys).map_err(engine)?;
    if args.detach {
        args.create.detach()?;
    }
    let [stdin, stdout, stderr] = args.create.attached()?;
    if stdin && args.create.tty() && !terminal::stdin_is_terminal() {
        return Err(Failure::new(1, "the input device is not a TTY"));
    }
    let Created { containers, container, lock } = create_options::create(args.create, context)?;
    note::container(context, "create", &container, &[]);
    let attached = stdin || stdout || stderr;
    let wanted =
        attached.then_some(Wanted { stdin, stdout, stderr, keys, forward: args.sig_proxy });
    match begin::start(context, &containers, &container, lock, wanted)? {
        Outcome::Ended(code) => Ok(code),
        Outcome::Parted if attached => {
            complain_bare("read escape sequence");
            Ok(0)
        }
        Outcome::Parted => {
            print(format!("{}\n", container.config.id.as_str()).as_bytes())?;
            Ok(0)
        }
    }
}
