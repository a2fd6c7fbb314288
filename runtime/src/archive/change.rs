//! `--change`: a Dockerfile instruction applied to an image's configuration.

use std::str::FromStr;

use serde_json::{Map, Value, json};

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `CMD`: an array, or a command line for the shell.
    Cmd(Vec<String>),
    /// `ENTRYPOINT`, in the same two forms.
    Entrypoint(Vec<String>),
    /// `ENV NAME=value …`.
    Env(Vec<(String, String)>),
    /// `LABEL name=value …`.
    Label(Vec<(String, String)>),
    /// `EXPOSE port[/protocol] …`.
    Expose(Vec<String>),
    /// `VOLUME`: an array, or paths.
    Volume(Vec<String>),
    /// `USER`.
    User(String),
    /// `WORKDIR`.
    Workdir(String),
    /// `STOPSIGNAL`.
    StopSignal(String),
}

/// Why a text is no such instruction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The instruction is unknown, or has no place here.
    #[error(
        "--change does not know the instruction '{0}'; it takes CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR"
    )]
    Unknown(String),
    /// It has no argument, or one that it cannot use.
    #[error("--change {0} {1}")]
    Argument(String, &'static str),
}

impl FromStr for Change {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, ChangeError> {
        let text = text.trim();
        let (word, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (word, argument) = (word.to_ascii_uppercase(), argument.trim());
        let wrong = |why| ChangeError::Argument(word.clone(), why);
        let make = match word.as_str() {
            "CMD" => return command(argument).map(Change::Cmd).map_err(wrong),
            "ENTRYPOINT" => return command(argument).map(Change::Entrypoint).map_err(wrong),
            "ENV" => return pairs(argument).map(Change::Env).map_err(wrong),
            "LABEL" => return pairs(argument).map(Change::Label).map_err(wrong),
            "EXPOSE" => return words(argument).map(ports).map(Change::Expose).map_err(wrong),
            "VOLUME" => {
                let list = array(argument).map_or_else(|| words(argument), Ok);
                return list.map(Change::Volume).map_err(wrong);
            }
            "USER" => Change::User,
            "WORKDIR" => Change::Workdir,
            "STOPSIGNAL" => Change::StopSignal,
            _ => return Err(ChangeError::Unknown(word)),
        };
        if argument.is_empty() {
            return Err(wrong(MISSING));
        }
        Ok(make(argument.to_owned()))
    }
}

const MISSING: &str = "needs an argument";

fn ports(ports: Vec<String>) -> Vec<String> {
    let with_protocol =
        |port: String| if port.contains('/') { port } else { format!("{port}/tcp") };
    ports.into_iter().map(with_protocol).collect()
}

/// `["a", "b"]`
fn array(argument: &str) -> Option<Vec<String>> {
    serde_json::from_str(argument).ok()
}

fn command(argument: &str) -> Result<Vec<String>, &'static str> {
    if argument.is_empty() {
        return Err(MISSING);
    }
    let shell = || ["/bin/sh", "-c", argument].map(str::to_owned).to_vec();
    Ok(array(argument).unwrap_or_else(shell))
}

fn words(argument: &str) -> Result<Vec<String>, &'static str> {
    let words: Vec<String> = argument.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() { Err(MISSING) } else { Ok(words) }
}

/// `a=b c="d e"`, or the old form `a b c`, which sets `a` to `b c`.
fn pairs(argument: &str) -> Result<Vec<(String, String)>, &'static str> {
    let first = argument.split_whitespace().next().ok_or(MISSING)?;
    if !first.contains('=') {
        let (name, value) = argument.split_once(char::is_whitespace).ok_or("needs NAME=value")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    unquoted_words(argument)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err("needs NAME=value"),
        })
        .collect()
}

/// Words as a shell sees them: quotes group, a backslash takes the next character as it is.
fn unquoted_words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => {
                let next = characters.next().ok_or("ends in a backslash")?;
                word.get_or_insert_default().push(next);
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("has a quote that is not closed");
    }
    words.extend(word);
    Ok(words)
}

impl Change {
    /// Changes the `config` of an image configuration.
    pub fn apply(&self, config: &mut Map<String, Value>) {
        match self {
            Change::Cmd(words) => set(config, "Cmd", json!(words)),
            Change::Entrypoint(words) => set(config, "Entrypoint", json!(words)),
            Change::User(user) => set(config, "User", json!(user)),
            Change::Workdir(directory) => set(config, "WorkingDir", json!(directory)),
            Change::StopSignal(signal) => set(config, "StopSignal", json!(signal)),
            Change::Env(pairs) => {
                let list = config.entry("Env").or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    for (name, value) in pairs {
                        let start = format!("{name}=");
                        list.retain(|old| !old.as_str().is_some_and(|old| old.starts_with(&start)));
                        list.push(json!(format!("{start}{value}")));
                    }
                }
            }
            Change::Label(pairs) => {
                for (name, value) in pairs {
                    insert(config, "Labels", name, json!(value));
                }
            }
            Change::Expose(ports) => {
                ports.iter().for_each(|port| insert(config, "ExposedPorts", port, json!({})));
            }
            Change::Volume(paths) => {
                paths.iter().for_each(|path| insert(config, "Volumes", path, json!({})));
            }
        }
    }
}

fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

fn insert(config: &mut Map<String, Value>, set: &str, key: &str, value: Value) {
    if let Value::Object(members) = config.entry(set).or_insert_with(|| json!({})) {
        members.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageConfig;

    #[test]
    fn instructions_become_configuration() {
        let mut config = Map::new();
        for text in [
            r#"CMD ["a", "b c"]"#,
            "entrypoint run it",
            r#"ENV A=1 B="x y" C=\ z"#,
            "ENV A 2 3",
            "EXPOSE 80 53/udp",
            "LABEL l=m",
            "VOLUME /v",
            "USER me:us",
            "WORKDIR /w",
            "STOPSIGNAL SIGINT",
        ] {
            text.parse::<Change>().unwrap().apply(&mut config);
        }
        let config: ImageConfig = serde_json::from_value(Value::Object(config)).unwrap();
        assert_eq!(config.cmd, ["a", "b c"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "run it"]);
        assert_eq!(config.env, ["B=x y", "C= z", "A=2 3"]);
        assert_eq!(config.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(config.volumes, ["/v"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("me:us", "/w"));
        assert_eq!(config.stop_signal, "SIGINT");
        for bad in ["", "CMD", "RUN x", "ENV", "ENV A", "ENV A=\"x", "USER"] {
            assert!(bad.parse::<Change>().is_err(), "{bad}");
        }
    }
}
