//! `cowl network create`

use super::{networks, pair};
use crate::cli::{Context, Failure, print};
use crate::network::catalog::{self, Wish};

/// Make a network
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The driver: `bridge` is the only one
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Its addresses, as ADDRESS/LENGTH; else chosen from the pools
    #[arg(long, value_name = "SUBNET")]
    subnet: Option<String>,
    /// The bridge's address
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// The part of the addresses that containers get
    #[arg(long, value_name = "SUBNET")]
    ip_range: Option<String>,
    /// Without a way out
    #[arg(long)]
    internal: bool,
    /// Accepted: containers may always be attached later
    #[arg(long)]
    attachable: bool,
    /// A label, as KEY=VALUE
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// An option of the driver: mtu=BYTES
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// Options of Docker's bridge driver that are taken.
const OPTIONS: [&str; 2] = ["mtu", "com.docker.network.driver.mtu"];

/// Makes it, and prints its id.
pub fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    if args.driver != "bridge" {
        let driver = args.driver;
        return Err(Failure::new(
            1,
            format!("could not find plugin {driver} in v1 plugin registry: use --driver bridge"),
        ));
    }
    let options = args.opt.iter().map(|text| pair(text));
    for (key, value) in options.clone() {
        if !OPTIONS.contains(&key.as_str()) {
            return Err(Failure::new(1, format!("unknown option {key}: give mtu=BYTES")));
        }
        if value.parse::<u32>().is_err() {
            return Err(Failure::new(1, format!("invalid value of option {key}: {value}")));
        }
    }
    let gateway = args
        .gateway
        .map(|text| text.parse().map_err(|_| format!("invalid gateway address: {text}")))
        .transpose()
        .map_err(|message| Failure::new(1, message))?;
    let wish = Wish {
        name: args.name,
        subnet: args.subnet.map(|text| text.parse()).transpose()?,
        range: args.ip_range.map(|text| text.parse()).transpose()?,
        gateway,
        internal: args.internal,
        labels: args.label.iter().map(|text| pair(text)).collect(),
        options: options.collect(),
    };
    let network = catalog::create(&networks(context)?, wish)?;
    print(format!("{}\n", network.id).as_bytes())?;
    Ok(0)
}
