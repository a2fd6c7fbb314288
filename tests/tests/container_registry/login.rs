//! `cowl login`, `cowl logout`, and what is done with a name and password.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cowl_tests::container::{Caller, Machine, check};

use super::front::{Deed, Front};
use super::http::Message;
use super::server::{Image, Registry};

/// `user:secret`, as HTTP has it.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

cowl_tests::as_root_and_user!(names_and_passwords);

fn config(machine: &Machine) -> String {
    fs::read_to_string(machine.path("home/.docker/config.json")).expect("config.json")
}

fn login(machine: &Machine, server: &str, password: &str) -> cowl_tests::container::Outcome {
    machine.cowl_with_input(
        format!("{password}\n").as_bytes(),
        ["login", "-u", "user", "--password-stdin", server],
    )
}

fn names_and_passwords(machine: &Machine) {
    let registry = Registry::with_password();
    let server = registry.address.to_string();
    let name = registry.name("app");
    machine.cowl(["pull", &name]).fails(1, "access denied for");
    login(machine, &server, "wrong").fails(1, "unauthorized");
    assert!(!machine.path("home/.docker/config.json").exists());

    let done = login(machine, &server, "secret");
    assert_eq!(done.ok(), "Login Succeeded\n");
    assert!(done.err().contains("stored unencrypted"), "{}", done.err());
    let kept: serde_json::Value = serde_json::from_str(&config(machine)).expect("JSON");
    assert_eq!(kept["auths"][&server]["auth"], "dXNlcjpzZWNyZXQ=");
    let mode = fs::metadata(machine.path("home/.docker/config.json")).expect("stat");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    // Now the registry says what it has: nothing.
    machine.cowl(["pull", &name]).fails(1, "not found");
    let again = machine.cowl(["login", &server]);
    assert!(again.ok().contains("existing credentials"), "{}", again.out());

    let said = machine.cowl(["logout", &server]).ok();
    assert_eq!(said, format!("Removing login credentials for {server}\n"));
    assert_eq!(machine.cowl(["logout", &server]).ok(), format!("Not logged in to {server}\n"));
    machine.cowl(["pull", &name]).fails(1, "access denied for");

    machine.cowl(["login", &server]).fails(1, "non TTY");
    machine.cowl(["login", "--password-stdin", &server]).fails(1, "--username");
}

/// Makes a credential helper that keeps one entry in a file.
fn helper(machine: &Machine) {
    let script = "#!/bin/sh\nd=$(dirname \"$0\")/kept\ncase $1 in\n\
         store) cat > \"$d\" ;;\n\
         get) read -r key; [ -s \"$d\" ] || { echo 'credentials not found in native keychain'; exit 1; }\n\
              grep -q \"\\\"$key\\\"\" \"$d\" && cat \"$d\" ;;\n\
         erase) rm -f \"$d\" ;;\n\
         esac\n";
    let path = machine.file("bin/docker-credential-test", script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn credential_helpers() {
    check(Caller::Root, |machine| {
        helper(machine);
        let registry = Registry::with_password();
        let server = registry.address.to_string();
        machine.folder("home/.docker");
        machine.file("home/.docker/config.json", r#"{"credsStore": "test", "other": 1}"#);
        machine.cowl(["pull", &registry.name("app")]).fails(1, "access denied for");
        let done = login(machine, &server, "secret");
        assert_eq!(done.ok(), "Login Succeeded\n");
        assert_eq!(done.err(), "");
        let kept = fs::read_to_string(machine.path("bin/kept")).expect("what the helper keeps");
        assert!(kept.contains("secret") && kept.contains(&server), "{kept}");
        assert!(!config(machine).contains("secret") && config(machine).contains("other"));
        machine.cowl(["pull", &registry.name("app")]).fails(1, "not found");
        machine.cowl(["logout", &server]).ok();
        assert!(!machine.path("bin/kept").exists());
        machine.cowl(["pull", &registry.name("app")]).fails(1, "access denied for");
        machine.file("home/.docker/config.json", r#"{"credsStore": "absent"}"#);
        machine.cowl(["pull", &registry.name("app")]).fails(1, "docker-credential-absent");
    });
}

/// A front that gives out tokens, and lets only requests with the right one pass.
fn with_tokens(registry: &Registry) -> Front {
    let answer = |status: &str, headers: &[(&str, String)], body: &str| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Deed::Answer(Message {
            first: format!("HTTP/1.1 {status}"),
            headers: headers.collect(),
            body: body.as_bytes().to_vec(),
        })
    };
    Front::start(registry.address, move |request| {
        let host = request.header("host").expect("a host").to_owned();
        let authorization = request.header("authorization").unwrap_or_default();
        if request.path().starts_with("/token") {
            // Anybody may pull from `open`; for the rest one must be somebody.
            let public = request.path().contains("open%3Apull") && !request.path().contains("push");
            if !public && authorization != BASIC {
                return answer(
                    "401 Unauthorized",
                    &[],
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#,
                );
            }
            let token = request.path().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            return answer("200 OK", &[], &format!(r#"{{"token":"t{token}"}}"#));
        }
        let repository = request.path().split('/').nth(2).unwrap_or_default();
        let allowed = authorization.starts_with("Bearer t-token")
            && (repository.is_empty()
                || authorization.contains(&format!("repository-3A{repository}-3A")));
        if allowed {
            return Deed::Pass;
        }
        let scope = if repository.is_empty() {
            String::new()
        } else {
            format!(",scope=\"repository:{repository}:pull\"")
        };
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\"{scope}");
        answer("401 Unauthorized", &[("WWW-Authenticate", challenge)], "")
    })
}

#[test]
fn tokens() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        for repository in ["open", "closed"] {
            registry.put_image(repository, "latest", &Image::of(&[("f", repository.as_bytes())]));
        }
        let front = with_tokens(&registry);
        let server = front.address.to_string();
        machine.cowl(["pull", &front.name("open")]).ok();
        let asked = |request: &Message| request.path().starts_with("/token");
        assert_eq!(front.count(asked), 1, "one token for all layers");
        let line = "service=test&scope=repository%3Aopen%3Apull";
        assert_eq!(front.count(|request| request.path().contains(line)), 1);
        machine.cowl(["pull", &front.name("closed")]).fails(1, "unauthorized");
        login(machine, &server, "wrong").fails(1, "incorrect username or password");
        login(machine, &server, "secret").ok();
        machine.cowl(["pull", &front.name("closed")]).ok();
        // The password goes to the token server and nowhere else.
        let leaked =
            |request: &Message| !asked(request) && request.header("authorization") == Some(BASIC);
        assert_eq!(front.count(leaked), 0);
    });
}
