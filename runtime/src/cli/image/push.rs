//! `cowl push`

use crate::cli::progress::{Lines, Stream};
use crate::cli::{Context, Failure, print};
use crate::reference::Reference;
use crate::registry::progress::Silent;
use crate::registry::pull::Access;
use crate::registry::{Progress, RegistryError, push};
use crate::store::StoreError;

/// Upload an image to a registry
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Upload all tags that the repository has here
    #[arg(short, long)]
    all_tags: bool,
    /// Say only which image it is
    #[arg(short, long)]
    quiet: bool,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

/// Runs the command.
///
/// # Errors
/// When there is no such image, or the registry does not take it.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let name: Reference = args.name.parse()?;
    let explicit = Reference::is_explicit(&args.name);
    if name.digest().is_some() {
        return Err(Failure::new(1, "cannot push a digest reference"));
    }
    if args.all_tags && explicit {
        return Err(Failure::new(1, "tag can't be used with --all-tags/-a"));
    }
    let store = context.store()?;
    let names = if args.all_tags {
        push::tags(&store, &name)?
    } else {
        match store.resolve(&name.to_string()) {
            Err(StoreError::NoSuchImage(_)) => {
                return Err(RegistryError::NoTag(name.familiar()).into());
            }
            found => found.map(drop)?,
        }
        if !explicit && !args.quiet {
            print(b"Using default tag: latest\n")?;
        }
        vec![name.clone()]
    };
    let lines = Lines::new(Stream::Out);
    let progress: &dyn Progress = if args.quiet { &Silent } else { &lines };
    progress.say(&format!("The push refers to repository [{}]", name.repository()));
    let access = Access::read()?;
    for name in &names {
        let pushed = push::push(&access, &store, name, progress)?;
        let tag = name.tag().unwrap_or_default();
        progress.say(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size));
        if args.quiet {
            print(format!("{name}\n").as_bytes())?;
        }
    }
    Ok(0)
}
