//! For which machine an image is: `os/architecture[/variant]`.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::RegistryError;
use crate::archive::manifest::architecture;

/// A platform, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// The processor.
    #[serde(default)]
    pub architecture: String,
    /// Which kind of the processor, where that matters.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub fn here() -> Platform {
        Platform { os: "linux".to_owned(), architecture: architecture().to_owned(), variant: None }
    }

    /// Whether something for `self` does for `wanted`: a missing variant fits any.
    pub fn serves(&self, wanted: &Platform) -> bool {
        let variant = |platform: &Platform| {
            platform.variant.clone().filter(|variant| !variant.is_empty()).or_else(|| {
                // What is meant when nothing is said.
                (platform.architecture == "arm64").then(|| "v8".to_owned())
            })
        };
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && match (variant(self), variant(wanted)) {
                (Some(ours), Some(wanted)) => ours == wanted,
                _ => true,
            }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

impl FromStr for Platform {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Platform, RegistryError> {
        let wrong = || RegistryError::BadPlatform(text.to_owned());
        let text = text.to_ascii_lowercase();
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !parts.iter().all(|part| word(part)) {
            return Err(wrong());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            ["linux"] => ("linux", architecture(), None),
            [architecture] => ("linux", *architecture, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some((*variant).to_owned())),
            _ => return Err(wrong()),
        };
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" => "386",
            other => other,
        };
        Ok(Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let parse = |text: &str| text.parse::<Platform>().unwrap();
        assert_eq!(parse("linux/arm64").to_string(), "linux/arm64");
        assert_eq!(parse("aarch64").to_string(), "linux/arm64");
        assert_eq!(parse("Linux/ARM/v7").to_string(), "linux/arm/v7");
        assert!(parse("linux/arm64/v8").serves(&parse("arm64")));
        assert!(!parse("linux/arm/v6").serves(&parse("linux/arm/v7")));
        assert!(!parse("windows/amd64").serves(&parse("linux/amd64")));
        for wrong in ["", "a/b/c/d", "linux/", "a b"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }
}
