//! `WWW-Authenticate`: how a registry wants to be told who asks.

use std::collections::BTreeMap;

/// How to prove who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// With name and password in every request.
    Basic,
    /// With a token that `realm` gives out.
    Bearer {
        /// The token server's address.
        realm: String,
        /// What to call the registry there.
        service: Option<String>,
        /// What the registry says is needed.
        scope: Option<String>,
    },
}

/// The challenge of a header; a token is preferred where there are several.
pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut found = None;
    for header in headers {
        for (scheme, mut parameters) in schemes(header) {
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameters.remove("realm") {
                    let (service, scope) =
                        (parameters.remove("service"), parameters.remove("scope"));
                    return Some(Challenge::Bearer { realm, service, scope });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

/// Every scheme of a header with its parameters.
fn schemes(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after = after.trim_start();
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = value_of(value.trim_start());
            if let Some((_, parameters)) = found.last_mut() {
                parameters.insert(word.to_ascii_lowercase(), value);
            }
            rest = after;
        } else {
            if !word.is_empty() {
                found.push((word.to_owned(), BTreeMap::new()));
            }
            rest = after;
        }
        rest = rest.trim_start_matches([',', ' ']);
    }
    found
}

/// A quoted or plain value, and what comes after it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let one = |text: &str| parse(std::iter::once(text));
        let bearer = r#"Bearer realm="https://auth.example/token",service="reg, one",scope="repository:a/b:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("reg, one".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(one(bearer), Some(expected.clone()));
        assert_eq!(parse(["Basic realm=x", bearer].into_iter()), Some(expected.clone()));
        assert_eq!(one(&format!("Basic realm=\"x\", {bearer}")), Some(expected));
        assert_eq!(one("basic realm=\"a \\\"b\""), Some(Challenge::Basic));
        for nothing in
            ["", "Negotiate", "Bearer", "Bearer service=x", ",,,=", "=\"", "Digest realm=\"a"]
        {
            assert_eq!(one(nothing), None, "{nothing}");
        }
    }
}
