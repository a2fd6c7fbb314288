//! `cowl network inspect`

use serde_json::{Map, Value, json};

use super::networks;
use crate::cli::{Context, Failure, inspect};
use crate::image::moment::format;
use crate::network::settings::mac_text;
use crate::network::{Endpoint, Network, Networks};

/// What Docker lists as networks too; nothing is written down about them.
pub const WITHOUT_RECORD: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// Show everything about networks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show this template of each network instead of JSON
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Accepted: everything is shown
    #[arg(short, long)]
    verbose: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    inspect::show(args.format.as_deref(), &args.networks, |name| {
        find(context, name, false)?
            .ok_or_else(|| Failure::new(1, format!("network {name} not found")))
    })
}

/// The id of a network without a record: always the same digits.
pub fn fixed_id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    digits.chars().cycle().take(64).collect()
}

/// A moment in milliseconds since 1970, as Docker writes it.
pub fn moment(milliseconds: u64) -> String {
    let nanoseconds = (milliseconds % 1000).saturating_mul(1_000_000);
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    format(seconds, u32::try_from(nanoseconds).unwrap_or(0))
}

/// One network in Docker's shape.
pub fn find(context: &Context, wanted: &str, _size: bool) -> Result<Option<Value>, Failure> {
    let networks = networks(context)?;
    if let Some(network) = networks.find(wanted)? {
        return Ok(Some(document(&networks, &network)?));
    }
    let fixed = WITHOUT_RECORD.into_iter().find(|(name, _)| *name == wanted);
    Ok(fixed.map(|(name, driver)| {
        json!({
            "Name": name,
            "Id": fixed_id(name),
            "Created": moment(0),
            "Scope": "local",
            "Driver": driver,
            "EnableIPv4": true,
            "EnableIPv6": false,
            "IPAM": { "Driver": "default", "Options": null, "Config": null },
            "Internal": false,
            "Attachable": false,
            "Ingress": false,
            "ConfigFrom": { "Network": "" },
            "ConfigOnly": false,
            "Containers": {},
            "Options": {},
            "Labels": {},
        })
    }))
}

fn document(networks: &Networks, network: &Network) -> Result<Value, Failure> {
    let mut addresses = Map::new();
    addresses.insert("Subnet".into(), network.subnet.to_string().into());
    if let Some(range) = network.range {
        addresses.insert("IPRange".into(), range.to_string().into());
    }
    addresses.insert("Gateway".into(), network.gateway.to_string().into());
    let mut endpoints = networks.endpoints(&network.id)?;
    endpoints.retain(Endpoint::live);
    endpoints.sort_by(|a, b| a.container.cmp(&b.container));
    let containers: Map<String, Value> = endpoints
        .into_iter()
        .map(|endpoint| {
            let shown = json!({
                "Name": endpoint.name,
                "EndpointID": endpoint.id,
                "MacAddress": mac_text(endpoint.mac),
                "IPv4Address": format!("{}/{}", endpoint.address, endpoint.prefix),
                "IPv6Address": "",
            });
            (endpoint.container, shown)
        })
        .collect();
    let mut options = network.options.clone();
    options.insert("com.docker.network.bridge.name".into(), network.bridge.clone());
    Ok(json!({
        "Name": network.name,
        "Id": network.id,
        "Created": moment(network.created),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": {}, "Config": [addresses] },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options,
        "Labels": network.labels,
    }))
}
