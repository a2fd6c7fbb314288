//! Debian's registry, and images to put into it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cowl_tests::container::archive::{Tar, architecture, digest};

use super::http;

/// A registry. Ends with the test.
pub struct Registry {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Registry {
    /// One that takes everything from everybody.
    pub fn start() -> Registry {
        Registry::with("", "127.0.0.1:0", |_| String::new())
    }

    /// One without TLS that is reachable at 0.0.0.0, which does not count as loopback.
    pub fn without_tls() -> Registry {
        Registry::with("", "0.0.0.0:0", |_| String::new())
    }

    /// One that wants the name `user` and the password `secret`.
    pub fn with_password() -> Registry {
        // bcrypt, the only form that it takes, of `secret`.
        const USERS: &str = "user:$2b$04$x.2YRKy7pY2qf.qGnHksL.GFOlii4rCSmw9JHM83z63K4ZBguTUha\n";
        Registry::with("", "127.0.0.1:0", |directory| {
            let users = directory.join("users");
            fs::write(&users, USERS).expect("write the users");
            format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display())
        })
    }

    /// One that speaks TLS, with a certificate for 0.0.0.0 by an authority of its own.
    pub fn with_tls(certificates: &Certificates) -> Registry {
        let tls = format!(
            ", tls: {{certificate: {}, key: {}}}",
            certificates.path("server.crt").display(),
            certificates.path("server.key").display()
        );
        Registry::with(&tls, "0.0.0.0:0", |_| String::new())
    }

    fn with(http: &str, address: &str, more: impl FnOnce(&Path) -> String) -> Registry {
        let directory = tempfile::Builder::new()
            .prefix("cowl-registry-")
            .tempdir_in("/var/tmp")
            .expect("a directory in /var/tmp");
        let data = directory.path().join("data");
        fs::create_dir(&data).expect("a directory");
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: text}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'{http}}}\n{}",
            data.display(),
            more(directory.path())
        );
        fs::write(&config, text).expect("write the registry's configuration");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start docker-registry; tools/setup --tests installs it");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            let count = log.read_line(&mut line).expect("the registry's log");
            assert!(count > 0, "the registry does not start: {said}");
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(|c: char| c == '"' || c == ',' || c.is_whitespace());
                break rest[..end.unwrap_or(rest.len())].parse::<SocketAddr>().expect("an address");
            }
            said += &line;
        };
        // Read on: a full pipe would stop it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let address = SocketAddr::from(([127, 0, 0, 1], address.port()));
        Registry { child, address, _directory: directory }
    }

    /// A name in it.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Puts a blob into a repository; its digest.
    pub fn put_blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = digest(content);
        let line = format!("POST /v2/{repository}/blobs/uploads/");
        let begun = http::ask(self.address, &line, &[], b"");
        assert_eq!(begun.status(), 202, "{begun:?}");
        let location = begun.header("location").expect("a location");
        let path = location
            .split_once("//")
            .map_or(location, |(_, rest)| &rest[rest.find('/').expect("a path")..]);
        let mark = if path.contains('?') { '&' } else { '?' };
        let line = format!("PUT {path}{mark}digest=sha256:{digest}");
        let done = http::ask(self.address, &line, &[], content);
        assert_eq!(done.status(), 201, "{done:?}");
        digest
    }

    /// Puts a manifest or index under a tag; its digest.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        text: &str,
    ) -> String {
        let line = format!("PUT /v2/{repository}/manifests/{tag}");
        let done = http::ask(self.address, &line, &[("content-type", media_type)], text.as_bytes());
        assert_eq!(done.status(), 201, "{}", String::from_utf8_lossy(&done.body));
        digest(text.as_bytes())
    }

    /// Puts an image of these layers (as they are, whatever their compression) under a tag; the
    /// digest of its manifest.
    pub fn put_image(&self, repository: &str, tag: &str, image: &Image) -> String {
        let layers: Vec<serde_json::Value> = image
            .layers
            .iter()
            .map(|layer| {
                serde_json::json!({
                    "mediaType": layer.media_type,
                    "size": layer.blob.len(),
                    "digest": format!("sha256:{}", self.put_blob(repository, &layer.blob)),
                })
            })
            .collect();
        let config = image.config();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "size": config.len(),
                "digest": format!("sha256:{}", self.put_blob(repository, config.as_bytes())),
            },
            "layers": layers,
        });
        self.put_manifest(repository, tag, OCI_MANIFEST, &manifest.to_string())
    }

    /// A manifest as the registry has it.
    pub fn manifest(&self, repository: &str, tag: &str) -> serde_json::Value {
        let accept = "application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        let line = format!("GET /v2/{repository}/manifests/{tag}");
        let found = http::ask(self.address, &line, &[("accept", accept)], b"");
        assert_eq!(found.status(), 200, "{}", String::from_utf8_lossy(&found.body));
        serde_json::from_slice(&found.body).expect("a manifest")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone then.
        let _gone = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// OCI's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layer as a registry has it.
#[derive(Clone)]
pub struct Layer {
    /// What it is called.
    pub media_type: &'static str,
    /// Its bytes.
    pub blob: Vec<u8>,
    /// The digest of its uncompressed bytes.
    pub diff_id: String,
}

/// An image for a registry.
#[derive(Clone)]
pub struct Image {
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// For which processor.
    pub architecture: String,
}

impl Image {
    /// An image whose layers, one for each file, hold the named files.
    pub fn of(files: &[(&str, &[u8])]) -> Image {
        let layers = files.iter().map(|(name, content)| Layer::plain(name, content)).collect();
        Image { layers, architecture: architecture().to_owned() }
    }

    fn config(&self) -> String {
        let ids: Vec<String> =
            self.layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
        serde_json::json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": ids },
        })
        .to_string()
    }
}

impl Layer {
    /// One file, not compressed.
    pub fn plain(name: &str, content: &[u8]) -> Layer {
        let blob = Tar::default().file(name, content).finish();
        let diff_id = digest(&blob);
        Layer { media_type: "application/vnd.oci.image.layer.v1.tar", blob, diff_id }
    }

    /// The same, compressed by a program.
    pub fn packed(self, program: &str, media_type: &'static str) -> Layer {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        let mut stdin = child.stdin.take().expect("a pipe");
        let blob = self.blob.clone();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &blob));
        let output = child.wait_with_output().expect("run a compressor");
        writer.join().expect("the writer").expect("write to a compressor");
        assert!(output.status.success(), "{program}");
        Layer { media_type, blob: output.stdout, diff_id: self.diff_id }
    }
}

/// Where nobody listens: a port that the kernel gives to no test.
pub const NOBODY: &str = "127.0.0.1:1";

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(&(state ^ (state >> 29)).to_le_bytes()[..4]);
        bytes.extend(&(state >> 32).to_le_bytes()[..4]);
    }
    bytes.truncate(length);
    bytes
}

/// An authority, and a server's certificate by it.
pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    /// For a server at 0.0.0.0: an address of this machine that does not count as loopback.
    pub fn new() -> Certificates {
        let certificates = Certificates { directory: tempfile::tempdir().expect("a directory") };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        certificates.openssl(
            &[
                &["req", "-x509", "-days", "3650", "-subj", "/CN=test authority"],
                &key[..],
                &["-keyout", "ca.key", "-out", "ca.crt"],
            ]
            .concat(),
        );
        certificates.openssl(
            &[
                &["req", "-subj", "/CN=registry"],
                &key[..],
                &["-keyout", "server.key", "-out", "server.csr"],
            ]
            .concat(),
        );
        fs::write(certificates.path("ext"), "subjectAltName=IP:0.0.0.0\n").expect("write");
        certificates.openssl(&[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "3650",
            "-extfile",
            "ext",
            "-out",
            "server.crt",
        ]);
        certificates
    }

    /// One of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .expect("run openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
