//! `cowl pull`, and what `run` does about an image that is not there.

use std::io::{self, Write};

use crate::cli::progress::{Lines, Stream};
use crate::cli::{Context, Failure, print};
use crate::reference::Reference;
use crate::registry::platform::Platform;
use crate::registry::progress::Silent;
use crate::registry::pull::{self, Access, Pulled};
use crate::registry::{Progress, RegistryError};
use crate::store::StoreError;

/// Download an image from a registry
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Download all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// For which machine, where there are several: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Say only which image it is
    #[arg(short, long)]
    quiet: bool,
    /// The image's name
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// When `run` and `create` ask a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// Every time.
    Always,
    /// When the image is not in the store.
    Missing,
    /// Never.
    Never,
}

/// Runs the command.
///
/// # Errors
/// When the image is not there, does not come, or is not what it should be.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let name: Reference = args.name.parse()?;
    let platform = args.platform.as_deref().map(str::parse::<Platform>).transpose()?;
    let explicit = Reference::is_explicit(&args.name);
    if args.all_tags && explicit {
        return Err(Failure::new(1, "tag can't be used with --all-tags/-a"));
    }
    let lines = Lines::new(Stream::Out);
    let progress: &dyn Progress = if args.quiet { &Silent } else { &lines };
    let store = context.store()?;
    let access = Access::read()?;
    let names = if args.all_tags {
        pull::tags(&access, &name)?.iter().filter_map(|tag| name.at_tag(tag)).collect()
    } else {
        if !explicit && !args.quiet {
            print(b"Using default tag: latest\n")?;
        }
        vec![name.clone()]
    };
    for name in &names {
        let pulled = pull::pull(&access, &store, name, platform.as_ref(), progress)?;
        if !args.quiet {
            print(summary(name, &pulled).as_bytes())?;
        }
    }
    if args.all_tags {
        print(format!("{}\n", name.repository()).as_bytes())?;
    } else {
        print(format!("{name}\n").as_bytes())?;
    }
    Ok(0)
}

fn summary(name: &Reference, pulled: &Pulled) -> String {
    let status =
        if pulled.newer { "Downloaded newer image for" } else { "Image is up to date for" };
    format!("Digest: {}\nStatus: {status} {}\n", pulled.digest, name.familiar())
}

/// Gets an image that is about to be run, as `--pull` says; progress goes to standard error.
///
/// # Errors
/// When it has to come from a registry and does not.
pub fn for_run(
    context: &Context,
    image: &str,
    when: When,
    platform: Option<&str>,
    quiet: bool,
) -> Result<(), Failure> {
    let platform = platform.map(str::parse::<Platform>).transpose()?;
    let store = context.store()?;
    let found = match store.resolve(image) {
        Ok(found) => Some(found),
        // By an id there is nothing to pull.
        Err(StoreError::NoSuchImage(_)) if image.parse::<Reference>().is_ok() => None,
        Err(error) => return Err(error.into()),
    };
    let fits = found.as_ref().is_none_or(|image| {
        let of_image = Platform {
            os: image.os.clone(),
            architecture: image.architecture.clone(),
            variant: None,
        };
        platform.as_ref().is_none_or(|wanted| of_image.serves(wanted))
    });
    let name = match (when, found.is_some() && fits) {
        (When::Never, _) if found.is_some() && !fits => {
            return Err(RegistryError::Platform {
                name: image.to_owned(),
                wanted: platform.map_or(String::new(), |platform| platform.to_string()),
                found: found.map_or(String::new(), |image| image.architecture),
            }
            .into());
        }
        (When::Never, _) | (When::Missing, true) => return Ok(()),
        (When::Missing, false) => {
            let name: Reference = image.parse()?;
            if !quiet {
                let text = format!("Unable to find image '{}' locally\n", name.familiar());
                io::stderr().write_all(text.as_bytes()).ok();
            }
            name
        }
        (When::Always, _) => match image.parse() {
            Ok(name) => name,
            // An image's id: it is here, and nothing else can be.
            Err(_) => return Ok(()),
        },
    };
    let lines = Lines::new(Stream::Err);
    let progress: &dyn Progress = if quiet { &Silent } else { &lines };
    let access = Access::read()?;
    let pulled = pull::pull(&access, &store, &name, platform.as_ref(), progress)?;
    if !quiet {
        io::stderr().write_all(summary(&name, &pulled).as_bytes()).ok();
    }
    Ok(())
}
