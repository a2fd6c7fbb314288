//! Image archives as an attacker or a broken disk would write them.
//!
//! Headers are written by hand: a tar library refuses the names that these tests are about.

use sha2::{Digest, Sha256};

/// A tar in the making.
#[derive(Debug, Clone, Default)]
pub struct Tar {
    bytes: Vec<u8>,
    owner: (u32, u32),
}

/// Size of a tar block.
const BLOCK: usize = 512;

impl Tar {
    /// Who owns the entries that follow; root at first.
    pub fn owner(mut self, uid: u32, gid: u32) -> Tar {
        self.owner = (uid, gid);
        self
    }

    /// Adds a PAX header for the entry that follows.
    pub fn pax(self, key: &str, value: &[u8]) -> Tar {
        // The length counts itself: try until it fits.
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|n| rest + n.to_string().len() == *n).unwrap_or(rest);
        let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
        self.entry("PaxHeaders/0", b'x', "", 0o644, &record)
    }

    /// Adds a regular file.
    pub fn file(self, name: &str, data: &[u8]) -> Tar {
        self.entry(name, b'0', "", 0o644, data)
    }

    /// Adds a directory.
    pub fn directory(self, name: &str) -> Tar {
        self.entry(name, b'5', "", 0o755, b"")
    }

    /// Adds a symbolic link.
    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(name, b'2', target, 0o777, b"")
    }

    /// Adds a hard link.
    pub fn link(self, name: &str, target: &str) -> Tar {
        self.entry(name, b'1', target, 0o644, b"")
    }

    /// Adds any entry, its header exactly as told.
    pub fn entry(mut self, name: &str, kind: u8, target: &str, mode: u32, data: &[u8]) -> Tar {
        let mut header = [0_u8; BLOCK];
        put(&mut header, 0, name.as_bytes());
        put(&mut header, 100, format!("{mode:07o}").as_bytes());
        put(&mut header, 108, format!("{:07o}", self.owner.0).as_bytes());
        put(&mut header, 116, format!("{:07o}", self.owner.1).as_bytes());
        put(&mut header, 124, format!("{:011o}", data.len()).as_bytes());
        put(&mut header, 136, b"00000000000");
        put(&mut header, 148, b"        ");
        put(&mut header, 156, &[kind]);
        put(&mut header, 157, target.as_bytes());
        put(&mut header, 257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

fn put(header: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Hex SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A `docker save` archive with these layers, named `NAME:latest`; every digest in it is true.
pub fn image(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    image_with_ids(name, layers, &ids)
}

/// The same, with layer ids that may be a lie.
pub fn image_with_ids(name: &str, layers: &[Vec<u8>], ids: &[String]) -> Vec<u8> {
    pack(name, layers, ids, &serde_json::json!({ "Cmd": ["/bin/sh"] }))
}

/// The same, with a configuration: Docker's `Config` object.
pub fn image_with_settings(
    name: &str,
    layers: &[Vec<u8>],
    settings: &serde_json::Value,
) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    pack(name, layers, &ids, settings)
}

fn pack(name: &str, layers: &[Vec<u8>], ids: &[String], settings: &serde_json::Value) -> Vec<u8> {
    let config = serde_json::json!({
        "architecture": architecture(),
        "os": "linux",
        "config": settings,
        "rootfs": {
            "type": "layers",
            "diff_ids": ids.iter().map(|id| format!("sha256:{id}")).collect::<Vec<_>>(),
        },
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let paths: Vec<String> =
        (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = serde_json::json!([{
        "Config": config_name,
        "RepoTags": [format!("{name}:latest")],
        "Layers": paths,
    }])
    .to_string();
    let mut tar = Tar::default().file(&config_name, config.as_bytes());
    for (path, layer) in paths.iter().zip(layers) {
        tar = tar.file(path, layer);
    }
    tar.file("manifest.json", manifest.as_bytes()).finish()
}

/// Docker's name for this machine.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
