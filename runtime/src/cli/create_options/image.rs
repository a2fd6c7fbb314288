//! What an image name stands for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::engine;
use crate::cli::Failure;
use crate::container::life;
use crate::container::record::Bytes;
use crate::spec::Defaults;
use crate::store::Store;
use crate::unpack::root::Model;

/// The image that needs no store: this machine's own root filesystem.
pub const MACHINE: &str = "host";

/// An image, or this machine.
#[derive(Debug)]
pub struct Chosen {
    /// As the user named it.
    pub name: String,
    /// Its digest; none for this machine.
    pub id: Option<String>,
    /// Its layers, topmost first.
    pub layers: Vec<Bytes>,
    /// What its root directory is like.
    pub root: Model,
    /// How it wants to be run.
    pub defaults: Defaults,
    /// Places that get a volume of their own.
    pub volumes: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that it says it listens at.
    pub exposed_ports: Vec<String>,
    /// The signal that asks its command to stop.
    pub stop_signal: Option<i32>,
}

/// Finds it.
pub fn choose(store: &Store, name: &str) -> Result<Chosen, Failure> {
    if name == MACHINE {
        return Ok(machine());
    }
    let image = store.resolve(name).map_err(engine)?;
    let words = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
    Ok(Chosen {
        name: name.to_owned(),
        id: Some(image.id.to_string()),
        layers: image.layer_dirs().into_iter().map(Bytes::from).collect(),
        root: image.root_attributes().map_or(Model::Implied, Model::Layer),
        defaults: Defaults {
            entrypoint: words(&image.config.entrypoint),
            command: words(&image.config.cmd),
            environment: words(&image.config.env),
            user: image.config.user.clone(),
            working_dir: PathBuf::from(&image.config.working_dir),
        },
        volumes: image.config.volumes.clone(),
        labels: image.config.labels.clone(),
        exposed_ports: image.config.exposed_ports.clone(),
        stop_signal: Some(image.config.stop_signal.as_str())
            .filter(|name| !name.is_empty())
            .map(life::signal)
            .transpose()
            .map_err(engine)?,
    })
}

fn machine() -> Chosen {
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    Chosen {
        name: MACHINE.to_owned(),
        id: None,
        layers: vec![PathBuf::from("/").into()],
        root: Model::Machine,
        defaults: Defaults { command: vec![shell.into()], ..Defaults::default() },
        volumes: Vec::new(),
        labels: BTreeMap::new(),
        exposed_ports: Vec::new(),
        stop_signal: None,
    }
}
