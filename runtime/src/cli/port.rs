//! `cowl port`: where a container's published ports are reached.

use super::{Context, Failure, print};
use crate::network;
use crate::network::ports::Port;

/// `cowl port`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container's name or id
    container: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/tcp|udp]")]
    port: Option<Port>,
}

/// Prints them.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let container = context.containers()?.find(&args.container)?;
    let present = match container.state.status.live() {
        Some(_) => network::present(&container.dir)?.unwrap_or_default(),
        None => network::Present::default(),
    };
    let mut published = present.published;
    published.sort();
    let mut text = String::new();
    for one in published {
        match args.port {
            None => text.push_str(&format!("{} -> {one}\n", one.container)),
            Some(port) if port == one.container => text.push_str(&format!("{one}\n")),
            Some(_) => {}
        }
    }
    if let (Some(port), "") = (args.port, text.as_str()) {
        let name = &args.container;
        return Err(Failure::new(1, format!("no public port '{port}' published for {name}")));
    }
    print(text.as_bytes())?;
    Ok(0)
}
