//! The files that Docker writes for each container and mounts over the image's.

use std::fs;
use std::io;
use std::path::Path;

use super::{Error, io_error};
use crate::network::{Mode, Settings, hosts};

/// The machine's file, or nothing where it has none.
fn machines(path: &Path) -> Result<Vec<u8>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Writes `hosts`, `hostname` and `resolv.conf` into a container's directory. What depends on its
/// addresses is added when it starts.
pub fn write(dir: &Path, hostname: &str, network: &Settings) -> Result<(), Error> {
    let machines_resolver = machines(Path::new("/etc/resolv.conf"))?;
    let (hosts, resolver) = match network.mode {
        Mode::Host => {
            let mut text = machines(Path::new("/etc/hosts"))?;
            let mut added = String::new();
            let own = network.hosts.iter().map(|(name, address)| match address.as_str() {
                hosts::HOST_GATEWAY => (name.clone(), "127.0.0.1".to_owned()),
                _ => (name.clone(), address.clone()),
            });
            hosts::append(&mut added, &own.collect::<Vec<_>>());
            text.extend(added.into_bytes());
            (text, network.resolver(&machines_resolver))
        }
        _ => (hosts::hosts(&[], &[]).into_bytes(), machines_resolver),
    };
    let hostname = format!("{hostname}\n").into_bytes();
    for (name, content) in [("hosts", hosts), ("hostname", hostname), ("resolv.conf", resolver)] {
        let path = dir.join(name);
        fs::write(&path, content).map_err(io_error("write", &path))?;
    }
    Ok(())
}
