//! A registry that answers: where it is, by which protocol, and who we are to it.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use ureq::Body;
use ureq::http::Response;

use super::RegistryError;
use super::challenge::{self, Challenge};
use super::credentials::{Credential, Credentials};
use super::http::{Ask, Content, Failure, Http};
use super::settings::Settings;

/// Where Docker Hub's registry really is.
const HUB: &str = "registry-1.docker.io";
/// Largest error message that is read.
const MAX_MESSAGE: u64 = 64 << 10;
/// Largest document (manifest, configuration) that is read: what registries allow, and some.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Who asks, for token servers.
const CLIENT: &str = "cowl";

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope(Vec<String>);

impl Scope {
    /// For nothing in particular.
    pub fn none() -> Scope {
        Scope(Vec::new())
    }

    /// To pull from a repository.
    pub fn pull(repository: &str) -> Scope {
        Scope(vec![format!("repository:{repository}:pull")])
    }

    /// To push to a repository.
    pub fn push(repository: &str) -> Scope {
        Scope(vec![format!("repository:{repository}:pull,push")])
    }

    /// Also to pull from another.
    #[must_use]
    pub fn and_pull(mut self, repository: &str) -> Scope {
        self.0.push(format!("repository:{repository}:pull"));
        self
    }
}

/// A registry.
#[derive(Debug)]
pub struct Registry {
    /// Its name as users write it.
    pub host: String,
    /// `https://host:port`
    base: String,
    http: Http,
    credential: Option<Credential>,
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<BTreeMap<Scope, String>>,
}

/// What token servers answer.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// What registries say when they refuse.
#[derive(Deserialize)]
struct Complaints {
    #[serde(default)]
    errors: Vec<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Registry {
    /// Finds a registry: by HTTPS, or, where the settings allow it, by HTTP.
    ///
    /// # Errors
    /// When it does not answer, or is not trusted.
    pub fn connect(
        settings: &Settings,
        host: &str,
        credential: Option<Credential>,
    ) -> Result<Registry, RegistryError> {
        let real = if host == "docker.io" { HUB } else { host };
        let http = Http::new(settings, host)?;
        match Registry::at(host, &format!("https://{real}"), http.clone(), credential.clone()) {
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::Tls { .. }))
                if settings.is_insecure(host) =>
            {
                Registry::at(host, &format!("http://{real}"), http, credential).map_err(|plain| {
                    match plain {
                        // What HTTPS said is worth more when HTTP has no more to say.
                        RegistryError::Unreachable { .. } => match error {
                            RegistryError::Tls { .. } => plain,
                            _ => error,
                        },
                        plain => plain,
                    }
                })
            }
            result => result,
        }
    }

    /// The mirror at an address.
    ///
    /// # Errors
    /// When it does not answer, or is not trusted.
    pub fn mirror(
        settings: &Settings,
        address: &str,
        credentials: &Credentials,
    ) -> Result<Registry, RegistryError> {
        let base = address.trim_end_matches('/');
        let host = base.split_once("://").map_or(base, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or(host);
        let http = Http::new(settings, host)?;
        Registry::at(host, base, http, credentials.get(host)?)
    }

    /// Asks whether a registry is at an address.
    fn at(
        host: &str,
        base: &str,
        http: Http,
        credential: Option<Credential>,
    ) -> Result<Registry, RegistryError> {
        let registry = Registry {
            host: host.to_owned(),
            base: base.to_owned(),
            http,
            credential,
            challenge: Mutex::new(None),
            tokens: Mutex::new(BTreeMap::new()),
        };
        let ask = Ask {
            method: "GET",
            url: format!("{base}/v2/"),
            headers: Vec::new(),
            content: Content::None,
            again: true,
        };
        // Only once: whoever mistyped a name must not wait.
        let response = registry.http.once(&ask).map_err(|failure| failure.about(host))?;
        let status = response.status().as_u16();
        let challenge = challenge_of(&response);
        match status {
            200 => {}
            401 if challenge.is_some() => {}
            _ => return Err(registry.refusal(response, "GET /v2/")),
        }
        *registry.challenge.lock().unwrap_or_else(PoisonError::into_inner) = challenge;
        Ok(registry)
    }

    /// The address of something in a repository, `manifests/latest` say.
    pub fn url(&self, repository: &str, rest: &str) -> String {
        format!("{}/v2/{repository}/{rest}", self.base)
    }

    /// An address that the registry gave, which may be relative.
    pub fn resolve(&self, location: &str) -> String {
        if location.contains("://") {
            location.to_owned()
        } else if location.starts_with('/') {
            let (scheme, rest) = self.base.split_once("://").unwrap_or(("https", &self.base));
            let host = rest.split('/').next().unwrap_or(rest);
            format!("{scheme}://{host}{location}")
        } else {
            format!("{}/{location}", self.base)
        }
    }

    /// Sends a request as who we are.
    ///
    /// # Errors
    /// When there is no answer, or we are nobody to the registry.
    pub fn send(
        &self,
        mut ask: Ask<'_>,
        scope: &Scope,
        pausing: &dyn Fn(Duration),
    ) -> Result<Response<Body>, RegistryError> {
        // An address elsewhere has its permission in itself.
        let ours = ask.url.strip_prefix(&self.base).is_some_and(|rest| rest.starts_with('/'));
        let headers = ask.headers.clone();
        if ours && let Some(header) = self.authorization(scope)? {
            ask.headers.push(("authorization", header));
        }
        let response = self.ask(&ask, pausing)?;
        if response.status().as_u16() != 401 || !ours {
            return Ok(response);
        }
        // The token may have run out, or the registry wants another one for this.
        let Some(challenge) = challenge_of(&response) else { return Ok(response) };
        let wanted = match &challenge {
            Challenge::Bearer { scope: Some(scope), .. } => Some(scope.clone()),
            _ => None,
        };
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge);
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(scope);
        let wider = match wanted {
            Some(wanted) if !scope.0.contains(&wanted) => {
                let mut all = scope.clone();
                all.0.push(wanted);
                all
            }
            _ => scope.clone(),
        };
        let Some(header) = self.authorization(&wider)? else { return Ok(response) };
        ask.headers = headers;
        ask.headers.push(("authorization", header));
        self.ask(&ask, pausing)
    }

    fn ask(
        &self,
        ask: &Ask<'_>,
        pausing: &dyn Fn(Duration),
    ) -> Result<Response<Body>, RegistryError> {
        self.http.send(ask, pausing).map_err(|failure| failure.about(&self.host))
    }

    /// The `Authorization` header, if the registry wants one.
    fn authorization(&self, scope: &Scope) -> Result<Option<String>, RegistryError> {
        let challenge = self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.credential.as_ref().and_then(Credential::basic)),
            Some(Challenge::Bearer { realm, service, .. }) => {
                // Held while asking: layers that start together share one token.
                let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(token) = tokens.get(scope) {
                    return Ok(Some(format!("Bearer {token}")));
                }
                let token = self.token(&realm, service.as_deref(), scope)?;
                let header = format!("Bearer {token}");
                tokens.insert(scope.clone(), token);
                Ok(Some(header))
            }
        }
    }

    /// Gets a token from the registry's token server.
    fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &Scope,
    ) -> Result<String, RegistryError> {
        let what = "a request for a token";
        if !realm.starts_with("https://") && !realm.starts_with("http://") {
            return Err(self.nonsense(what, format!("its token server is '{realm}'")));
        }
        let mut fields: Vec<(&str, &str)> = Vec::new();
        fields.extend(service.map(|service| ("service", service)));
        let mut headers = Vec::new();
        let form;
        let ask = match &self.credential {
            Some(Credential::IdentityToken(token)) => {
                let scopes = scope.0.join(" ");
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT),
                    ("refresh_token", token.as_str()),
                    ("scope", scopes.as_str()),
                ]);
                form = query(&fields);
                let kind = "application/x-www-form-urlencoded".to_owned();
                headers.push(("content-type", kind));
                let content = Content::Bytes(form.as_bytes());
                Ask { method: "POST", url: realm.to_owned(), headers, content, again: true }
            }
            other => {
                fields.extend(scope.0.iter().map(|scope| ("scope", scope.as_str())));
                if let Some(Credential::Password { user, .. }) = other {
                    fields.push(("account", user));
                }
                headers.extend(
                    other.as_ref().and_then(Credential::basic).map(|h| ("authorization", h)),
                );
                let mark = if realm.contains('?') { '&' } else { '?' };
                let url = format!("{realm}{mark}{}", query(&fields));
                Ask { method: "GET", url, headers, content: Content::None, again: true }
            }
        };
        let response = self.http.send(&ask, &|_| {}).map_err(|failure| match failure {
            Failure::Unreachable(why) | Failure::Broken(why) => RegistryError::Unreachable {
                host: self.host.clone(),
                why: format!("its token server {realm} fails: {why}"),
            },
            failure @ Failure::Tls(_) => failure.about(&self.host),
        })?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => {
                let (_, why) = complaint(response);
                let why =
                    if why.is_empty() { "incorrect username or password".to_owned() } else { why };
                return Err(RegistryError::Unauthorized(why));
            }
            _ => return Err(self.refusal(response, what)),
        }
        let text = self.document(response, what)?;
        let token: Token = serde_json::from_slice(&text)
            .map_err(|error| self.nonsense(what, error.to_string()))?;
        token
            .token
            .filter(|token| !token.is_empty())
            .or(token.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| self.nonsense(what, "there is no token in it".to_owned()))
    }

    /// Whether the registry takes our name and password.
    ///
    /// # Errors
    /// When it does not, or does not answer.
    pub fn check_login(&self) -> Result<(), RegistryError> {
        let ask = Ask {
            method: "GET",
            url: format!("{}/v2/", self.base),
            headers: Vec::new(),
            content: Content::None,
            again: true,
        };
        let response = self.send(ask, &Scope::none(), &|_| {})?;
        match response.status().as_u16() {
            200 => Ok(()),
            401 | 403 => {
                let (_, why) = complaint(response);
                let why =
                    if why.is_empty() { "incorrect username or password".to_owned() } else { why };
                Err(RegistryError::Unauthorized(why))
            }
            _ => Err(self.refusal(response, "GET /v2/")),
        }
    }

    /// The whole content of a small answer.
    ///
    /// # Errors
    /// When it breaks off, or is too large.
    pub fn document(&self, response: Response<Body>, what: &str) -> Result<Vec<u8>, RegistryError> {
        let mut content = Vec::new();
        response
            .into_body()
            .into_reader()
            .take(MAX_DOCUMENT + 1)
            .read_to_end(&mut content)
            .map_err(|error| self.nonsense(what, format!("it breaks off ({error})")))?;
        if content.len() as u64 > MAX_DOCUMENT {
            return Err(self.nonsense(what, "it is too long".to_owned()));
        }
        Ok(content)
    }

    /// An answer that cannot be used, as an error.
    pub fn nonsense(&self, what: &str, why: String) -> RegistryError {
        RegistryError::Nonsense { host: self.host.clone(), what: what.to_owned(), why }
    }

    /// A refusal, as an error.
    pub fn refusal(&self, response: Response<Body>, what: &str) -> RegistryError {
        let status = response.status().as_u16();
        let (_, why) = complaint(response);
        let why = if why.is_empty() { "no reason given".to_owned() } else { why };
        if status == 401 {
            return RegistryError::Unauthorized(why);
        }
        RegistryError::Refused { host: self.host.clone(), what: what.to_owned(), status, why }
    }
}

fn challenge_of(response: &Response<Body>) -> Option<Challenge> {
    let headers = response.headers().get_all("www-authenticate").iter();
    challenge::parse(headers.filter_map(|header| header.to_str().ok()))
}

/// The code and the sentence of a refusal; empty where there is none.
pub fn complaint(response: Response<Body>) -> (String, String) {
    let mut text = Vec::new();
    let read = response.into_body().into_reader().take(MAX_MESSAGE).read_to_end(&mut text);
    if read.is_err() {
        return Default::default();
    }
    let Ok(complaints) = serde_json::from_slice::<Complaints>(&text) else {
        return Default::default();
    };
    let Some(first) = complaints.errors.into_iter().next() else { return Default::default() };
    // One line, however the registry writes it.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let code = first.code.to_lowercase().replace('_', " ");
    let sentence = match (words(&first.message), code.as_str()) {
        (message, "") => message,
        (message, code) if message.is_empty() => code.to_owned(),
        (message, code) => format!("{code}: {message}"),
    };
    (first.code, sentence)
}

/// `a=b&c=d`, encoded.
pub fn query(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}
