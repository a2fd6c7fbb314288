//! `cowl network connect` and `disconnect`: the configuration of the container changes, and a
//! running one is attached or taken out at once.

use super::networks;
use crate::cli::{Context, Failure};
use crate::container::{Container, Containers};
use crate::launch::network::who;
use crate::network::settings::mac;
use crate::network::{Error, Mode, Network, Wanted, attach};

/// Attach a container to a network
#[derive(Debug, clap::Args)]
pub struct ConnectArgs {
    /// One more name by which others in the network find it
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Its address in the network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Its hardware address in the network
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// The network's name or id
    network: String,
    /// The container's name or id
    container: String,
}

/// Take a container out of a network
#[derive(Debug, clap::Args)]
pub struct DisconnectArgs {
    /// A container that is not attached is no error
    #[arg(short, long)]
    force: bool,
    /// The network's name or id
    network: String,
    /// The container's name or id
    container: String,
}

fn both(
    context: &Context,
    network: &str,
    container: &str,
) -> Result<(Containers, Container, Network), Failure> {
    let containers = context.containers()?;
    let container = containers.find(container)?;
    let found = networks(context)?.find(network)?;
    let network = found.ok_or_else(|| Error::Unknown(network.to_owned()))?;
    Ok((containers, container, network))
}

/// Attaches.
pub fn connect(args: &ConnectArgs, context: &Context) -> Result<u8, Failure> {
    let (_containers, mut container, network) = both(context, &args.network, &args.container)?;
    let wrong = |text: &str| Failure::new(1, format!("invalid address: {text}"));
    let wanted = Wanted {
        network: network.name.clone(),
        address: args.ip.as_ref().map(|text| text.parse().map_err(|_| wrong(text))).transpose()?,
        mac: args
            .mac_address
            .as_ref()
            .map(|text| mac(text).ok_or_else(|| wrong(text)))
            .transpose()?,
        aliases: args.alias.clone(),
    };
    let settings = &mut container.config.network;
    match settings.mode {
        Mode::Host | Mode::None | Mode::Container(_) | Mode::User(_) => {
            let (name, mode) = (&container.config.name, settings.mode_name());
            return Err(Failure::new(
                1,
                format!("container {name} has the network mode {mode}: it cannot be connected"),
            ));
        }
        Mode::Default => {
            settings.mode = Mode::Networks;
            let network = crate::network::record::BRIDGE.to_owned();
            settings.networks.push(Wanted { network, ..Wanted::default() });
        }
        Mode::Networks => {}
    }
    if settings.networks.iter().any(|one| one.network == network.name) {
        return Err(Failure::new(
            1,
            format!(
                "endpoint with name {} already exists in network {}",
                args.container, network.name
            ),
        ));
    }
    settings.networks.push(wanted.clone());
    if let Some(live) = container.state.status.live() {
        attach::connect(&context.root, &who(&container), &wanted, live.init.pid)?;
    }
    container.save_config()?;
    Ok(0)
}

/// Takes out.
pub fn disconnect(args: &DisconnectArgs, context: &Context) -> Result<u8, Failure> {
    let (_containers, mut container, network) = both(context, &args.network, &args.container)?;
    let settings = &mut container.config.network;
    if settings.mode == Mode::Default && network.name == crate::network::record::BRIDGE {
        settings.mode = Mode::Networks;
        let network = network.name.clone();
        settings.networks.push(Wanted { network, ..Wanted::default() });
    }
    let before = settings.networks.len();
    settings.networks.retain(|one| one.network != network.name);
    if settings.networks.len() == before {
        if args.force {
            return Ok(0);
        }
        return Err(Error::NotAttached(container.config.name, network.name).into());
    }
    if let Some(live) = container.state.status.live() {
        attach::disconnect(&context.root, &who(&container), &network, live.init.pid)?;
    }
    container.save_config()?;
    Ok(0)
}
