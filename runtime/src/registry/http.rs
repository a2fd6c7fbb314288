//! One request over HTTP, tried again where that can help.
//!
//! Waiting is bounded everywhere: for the connection, for the answer, and for each piece of data.
//! A connection that breaks, a server that is busy or failing is tried again a few times, ever
//! later; what the server refuses is not.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Request, Response, StatusCode};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Body, SendBody};

use super::RegistryError;
use super::settings::Settings;

/// How long a connection may take, and how long a server may stay silent.
const CONNECT: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(60);
/// How often a request is tried.
const TRIES: u32 = 4;
/// The first pause; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, also where a server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// Nothing.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many bytes of a file, from some place on.
    Part(&'a Path, u64, u64),
}

/// One request.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// `GET` and the like.
    pub method: &'static str,
    /// The whole address.
    pub url: String,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// What is sent.
    pub content: Content<'a>,
    /// Whether it may be sent again when it is not known what became of it.
    pub again: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nobody is there, or the name is unknown.
    Unreachable(String),
    /// The certificate is not trusted, or it is no TLS at all.
    Tls(String),
    /// It broke off.
    Broken(String),
}

impl Failure {
    fn of(error: ureq::Error) -> Failure {
        match error {
            ureq::Error::HostNotFound => {
                Failure::Unreachable("no such host; is there a network?".to_owned())
            }
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Failure::Unreachable("it does not answer".to_owned())
            }
            ureq::Error::Timeout(_) => Failure::Broken("it does not answer any more".to_owned()),
            ureq::Error::Rustls(error) => Failure::Tls(tls_sentence(&error)),
            ureq::Error::Tls(why) => Failure::Tls(why.to_owned()),
            ureq::Error::Io(error) => Failure::of_io(&error),
            ureq::Error::ConnectProxyFailed(why) => {
                Failure::Unreachable(format!("the proxy refuses: {why}"))
            }
            error => Failure::Broken(error.to_string()),
        }
    }

    fn of_io(error: &io::Error) -> Failure {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(inner) = inner {
            return Failure::Tls(tls_sentence(inner));
        }
        let why = match error.raw_os_error() {
            // Without "(os error 111)".
            Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
            None => error.to_string(),
        };
        match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied => Failure::Unreachable(why),
            _ => Failure::Broken(why),
        }
    }

    /// As an error about a registry.
    pub fn about(self, host: &str) -> RegistryError {
        let host = host.to_owned();
        match self {
            Failure::Tls(why) => RegistryError::Tls { host, why },
            Failure::Unreachable(why) | Failure::Broken(why) => {
                RegistryError::Unreachable { host, why }
            }
        }
    }
}

fn tls_sentence(error: &rustls::Error) -> String {
    use rustls::CertificateError as Why;
    match error {
        rustls::Error::InvalidCertificate(Why::UnknownIssuer) => {
            "its certificate is signed by an unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(Why::Expired | Why::ExpiredContext { .. }) => {
            "its certificate has expired".to_owned()
        }
        rustls::Error::InvalidCertificate(
            Why::NotValidForName | Why::NotValidForNameContext { .. },
        ) => "its certificate is for another name".to_owned(),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        error => error.to_string(),
    }
}

/// What sends requests to one registry.
#[derive(Debug, Clone)]
pub struct Http {
    agent: Agent,
}

impl Http {
    /// With the authorities of the system and those that the settings name for `host`.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub fn new(settings: &Settings, host: &str) -> Result<Http, RegistryError> {
        let mut tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if settings.is_insecure(host) {
            tls = tls.disable_verification(true);
        }
        // What cannot be read of the system's certificates shows when one is missing.
        let mut roots: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|certificate| Certificate::from_der(certificate).to_owned())
            .collect();
        for path in settings.certificates(host, "crt")? {
            roots.extend(certificates(&path)?);
        }
        tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
        if let Some(path) = settings.certificates(host, "cert")?.first() {
            let key = path.with_extension("key");
            let text = read(&key)?;
            let private = PrivateKey::from_pem(&text).map_err(|_| bad(&key))?;
            let chain = certificates(path)?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, private)));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("cowl/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .max_redirects(5)
            .tls_config(tls.build())
            .build();
        Ok(Http { agent: config.into() })
    }

    /// Sends a request once.
    pub fn once(&self, ask: &Ask<'_>) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(ask.method).uri(&ask.url);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let wrong = |error: ureq::http::Error| Failure::Broken(error.to_string());
        let result = match ask.content {
            Content::None => self.agent.run(request.body(()).map_err(wrong)?),
            Content::Bytes(bytes) => self.agent.run(request.body(bytes).map_err(wrong)?),
            Content::Part(path, start, length) => {
                let mut part = part(path, start, length)
                    .map_err(|error| Failure::Broken(format!("{}: {error}", path.display())))?;
                let request = request.header("content-length", length.to_string());
                let body = SendBody::from_reader(&mut part);
                self.agent.run(request.body(body).map_err(wrong)?)
            }
        };
        result.map_err(Failure::of)
    }

    /// Sends a request; tries again where that can help. `pausing` is told before each pause.
    pub fn send(
        &self,
        ask: &Ask<'_>,
        pausing: &dyn Fn(Duration),
    ) -> Result<Response<Body>, Failure> {
        let mut pause = FIRST_PAUSE;
        for left in (0..TRIES).rev() {
            let result = self.once(ask);
            let wait = match &result {
                _ if !ask.again => return result,
                Err(Failure::Broken(_)) => pause,
                Ok(response) if is_passing(response.status()) => {
                    retry_after(response).unwrap_or(pause).min(LONGEST_PAUSE)
                }
                _ => return result,
            };
            if left == 0 {
                return result;
            }
            pausing(wait);
            std::thread::sleep(wait);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
        Err(Failure::Broken("it was not tried".to_owned()))
    }
}

/// Whether a server may answer differently soon.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn part(path: &Path, start: u64, length: u64) -> io::Result<impl Read> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(file.take(length))
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|source| RegistryError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

fn bad(path: &Path) -> RegistryError {
    RegistryError::Settings {
        path: path.to_owned(),
        why: "it holds no certificate or key in PEM form".to_owned(),
    }
}

/// The certificates in a PEM file.
fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let text = read(path)?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&text) {
        if let ureq::tls::PemItem::Certificate(certificate) = item.map_err(|_| bad(path))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(bad(path)) } else { Ok(found) }
}
