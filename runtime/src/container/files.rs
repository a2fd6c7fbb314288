//! The files that Docker writes for each container and mounts over the image's.

use std::fs;
use std::io;
use std::path::Path;

use super::{Error, io_error};
use crate::spec::Network;

const HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// The machine's file, or nothing where it has none.
fn machines(path: &Path) -> Result<Vec<u8>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Writes `hosts`, `hostname` and `resolv.conf` into a container's directory.
pub fn write(dir: &Path, hostname: &str, network: Network) -> Result<(), Error> {
    let hosts = match network {
        Network::Host => machines(Path::new("/etc/hosts"))?,
        Network::None => HOSTS.into(),
    };
    let resolver = machines(Path::new("/etc/resolv.conf"))?;
    let hostname = format!("{hostname}\n").into_bytes();
    for (name, content) in [("hosts", hosts), ("hostname", hostname), ("resolv.conf", resolver)] {
        let path = dir.join(name);
        fs::write(&path, content).map_err(io_error("write", &path))?;
    }
    Ok(())
}
