//! Image references: `[registry[:port]/][user/]repository[:tag][@digest]`.
//!
//! The grammar is the one of the distribution project's reference document; the defaults are
//! Docker's (`docker.io`, `library/`, `latest`). A [`Reference`] is always in canonical form, so
//! that two spellings of one image compare equal; [`Reference::familiar`] is how people write it.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The registry meant when none is named.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Docker Hub's older name, still found in archives.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// The user meant when a Docker Hub name has none.
const OFFICIAL: &str = "library/";
/// The tag meant when neither tag nor digest is given.
pub const DEFAULT_TAG: &str = "latest";
/// Longest repository path, from the distribution reference grammar.
const MAX_NAME: usize = 255;
/// Longest tag, from the same grammar.
const MAX_TAG: usize = 128;

/// A validated reference in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid image name: {why}")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// The canonical repository, `docker.io/library/debian`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it, `debian`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            // `library/a/b` must keep its prefix: `a/b` alone would mean user `a`.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The registry, `docker.io`.
    pub fn registry(&self) -> &str {
        &self.domain
    }

    /// The repository within its registry, `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository with this tag and no digest; `None` when it is no tag.
    #[must_use]
    pub fn at_tag(&self, tag: &str) -> Option<Reference> {
        is_tag(tag).then(|| Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The tag, when there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when there is one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The whole reference as people write it: `debian:12`.
    pub fn familiar(&self) -> String {
        self.with_repository(&self.familiar_repository())
    }

    fn with_repository(&self, repository: &str) -> String {
        let mut text = repository.to_owned();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }

    /// Whether `text` names a tag or a digest itself, rather than relying on the default tag.
    pub fn is_explicit(text: &str) -> bool {
        let last = text.rsplit('/').next().unwrap_or(text);
        last.contains(':') || last.contains('@')
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_repository(&self.repository()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|why| ReferenceError { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if Digest::from_hex(text).is_some() {
        return Err("64 hexadecimal digits are an image id, not a name");
    }
    let (name_tag, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            let digest = digest.parse().map_err(|_| "what follows '@' is not a sha256 digest")?;
            (name, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash starts the tag; one before it belongs to the registry's port.
    let (name, tag) = match name_tag.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name_tag, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(
            "a tag is up to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'",
        );
    }
    let (domain, path) = split_domain(name);
    if !is_domain(domain) {
        return Err("the registry is not a host name with an optional port");
    }
    let mut path = path.to_owned();
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        path.insert_str(0, OFFICIAL);
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if !path.split('/').all(is_path_component) {
        return Err(
            "a repository is made of lower-case letters and digits, separated by '/', '.', '_', '__' or '-'",
        );
    }
    if domain.len() + 1 + path.len() > MAX_NAME {
        return Err("the repository is longer than 255 bytes");
    }
    let tag = match (tag, digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_TAG.to_owned()),
    };
    Ok(Reference { domain: domain.to_owned(), path, tag, digest })
}

/// The first component is a registry if it looks like a host: it has a dot, a port, an upper-case
/// letter, or is `localhost`. This is Docker's rule.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        // An IPv6 address in brackets.
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => return is_ipv6(address),
            Some((address, after)) => match after.strip_prefix(':') {
                Some(port) => return is_ipv6(address) && is_port(port),
                None => return false,
            },
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    port.is_none_or(is_port)
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn is_ipv6(address: &str) -> bool {
    !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut seen = false;
    for c in component.chars() {
        match c {
            'a'..='z' | '0'..='9' => {
                let allowed = matches!(separator.as_str(), "" | "." | "_" | "__")
                    || separator.bytes().all(|byte| byte == b'-');
                if !allowed || (!seen && !separator.is_empty()) {
                    return false;
                }
                separator.clear();
                seen = true;
            }
            '.' | '_' | '-' => separator.push(c),
            _ => return false,
        }
    }
    seen && separator.is_empty()
}

/// `[\w][\w.-]{0,127}`
fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_dockers_defaults() {
        let long_digest = Digest::of(b"");
        let cases = [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("user/app:v1", "docker.io/user/app:v1", "user/app:v1"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            ("[::1]:5000/a/b:t", "[::1]:5000/a/b:t", "[::1]:5000/a/b:t"),
            ("quay.io/a/b/c__d.e--f:T_1", "quay.io/a/b/c__d.e--f:T_1", "quay.io/a/b/c__d.e--f:T_1"),
        ];
        for (text, canonical, familiar) in cases {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), canonical);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(canonical.parse::<Reference>().unwrap(), reference);
        }
        let pinned: Reference = format!("debian@{long_digest}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (None, Some(long_digest)));
        let both: Reference = format!("debian:12@{long_digest}").parse().unwrap();
        assert_eq!((both.tag(), both.digest()), (Some("12"), Some(long_digest)));
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        let hex = Digest::of(b"").hex();
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        let bad = [
            "",
            ":tag",
            "a:",
            "a:-t",
            "a:.t",
            "Debian",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "_a",
            "a_",
            "-a",
            "a b",
            "a:t/b:",
            "a@",
            "a@sha256:1",
            "é",
            "a.b:x/c",
            "-a.b/c",
            "../a",
            "a:b:c",
            "a\0",
            "[::1/a",
            "ex_ample.com/a",
            &hex,
            &long,
            &long_tag,
        ];
        for text in bad {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
