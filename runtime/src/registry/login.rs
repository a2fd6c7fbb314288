//! Who we are, for a registry: checked with it before it is kept.

use super::RegistryError;
use super::connection::Registry;
use super::credentials::{Credential, Credentials};
use super::settings::Settings;

/// The registry that a user means: a host, an address, or nothing for Docker Hub.
pub fn server(given: Option<&str>) -> String {
    let given = given.unwrap_or_default();
    let rest = given.split_once("://").map_or(given, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

/// Checks name and password with the registry and keeps them. Says whether the password now lies
/// in the file as it is.
///
/// # Errors
/// When the registry does not take them, or they cannot be kept.
pub fn login(
    settings: &Settings,
    credentials: &mut Credentials,
    host: &str,
    user: &str,
    password: &str,
) -> Result<bool, RegistryError> {
    let credential = Credential::Password { user: user.to_owned(), password: password.to_owned() };
    Registry::connect(settings, host, Some(credential))?.check_login()?;
    credentials.set(host, user, password)
}

#[cfg(test)]
mod tests {
    use super::server;

    #[test]
    fn servers() {
        for (given, host) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("https://reg.example:5000/v2/"), "reg.example:5000"),
            (Some("reg.example"), "reg.example"),
        ] {
            assert_eq!(server(given), host);
        }
    }
}
