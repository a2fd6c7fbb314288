//! `cowl login` and `cowl logout`.

use std::io::{self, IsTerminal, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use super::{Failure, print};
use crate::registry::credentials::{Credential, Credentials, key};
use crate::registry::login::{login, server};
use crate::registry::settings::Settings;

/// What a terminal gives for Ctrl-C when it makes no signal of it.
const CTRL_C: char = '\u{3}';
/// Longest password that is read.
const MAX_PASSWORD: u64 = 64 << 10;

/// `cowl login`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The password, or a token that stands for it
    #[arg(short, long)]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Your name there
    #[arg(short, long)]
    username: Option<String>,
    /// The registry; Docker Hub when none is given
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// `cowl logout`
#[derive(Debug, clap::Args)]
pub struct LogoutArgs {
    /// The registry; Docker Hub when none is given
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// Checks name and password with a registry and keeps them.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if args.password_stdin && args.password.is_some() {
        return Err(Failure::new(1, "--password and --password-stdin are mutually exclusive"));
    }
    if args.password_stdin && args.username.is_none() {
        return Err(Failure::new(1, "Must provide --username with --password-stdin"));
    }
    if args.password.is_some() {
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let host = server(args.server.as_deref());
    let settings = Settings::read()?;
    let mut credentials = Credentials::read()?;
    let known = match (&args.username, &args.password) {
        // Nothing given: what is known may still do.
        (None, None) => credentials.get(&host)?,
        _ => None,
    };
    let (user, password) = match known {
        Some(Credential::Password { user, password }) => {
            print(b"Authenticating with existing credentials...\n")?;
            (user, password)
        }
        _ => ask(args)?,
    };
    if login(&settings, &mut credentials, &host, &user, &password)? {
        let path = credentials.path().display().to_string();
        warn(&format!(
            "WARNING! Your password will be stored unencrypted in {path}.\n\
             Configure a credential helper to remove this warning."
        ));
    }
    print(b"Login Succeeded\n")?;
    Ok(0)
}

/// Forgets a registry's name and password.
pub fn logout(args: &LogoutArgs) -> Result<u8, Failure> {
    let host = server(args.server.as_deref());
    let mut credentials = Credentials::read()?;
    if credentials.erase(&host)? {
        print(format!("Removing login credentials for {}\n", key(&host)).as_bytes())?;
    } else {
        print(format!("Not logged in to {}\n", key(&host)).as_bytes())?;
    }
    Ok(0)
}

fn warn(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

/// Name and password, from the options, standard input, or whoever sits at the terminal.
fn ask(args: &Args) -> Result<(String, String), Failure> {
    let cannot =
        |error: io::Error| Failure::new(1, format!("cannot read from standard input: {error}"));
    let at_terminal = io::stdin().is_terminal();
    let need_terminal = || {
        Failure::new(
            1,
            "Cannot perform an interactive login from a non TTY device: give --username and \
             --password-stdin",
        )
    };
    let user = match &args.username {
        Some(user) => user.clone(),
        None if !at_terminal => return Err(need_terminal()),
        None => {
            print(b"Username: ")?;
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(cannot)?;
            line.trim().to_owned()
        }
    };
    if user.is_empty() {
        return Err(Failure::new(1, "Username cannot be empty"));
    }
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => {
            let mut text = String::new();
            io::stdin().take(MAX_PASSWORD).read_to_string(&mut text).map_err(cannot)?;
            text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r').to_owned()
        }
        None if !at_terminal => return Err(need_terminal()),
        None => hidden("Password: ")?,
    };
    if password.is_empty() {
        return Err(Failure::new(1, "password required"));
    }
    Ok((user, password))
}

/// Puts a terminal back as it was.
struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0).ok();
    }
}

/// A line that does not show while it is typed.
fn hidden(prompt: &str) -> Result<String, Failure> {
    let cannot = |error: io::Error| {
        Failure::new(1, format!("cannot read the password from the terminal: {error}"))
    };
    print(prompt.as_bytes())?;
    let before = tcgetattr(io::stdin()).map_err(|error| cannot(error.into()))?;
    let mut quiet = before.clone();
    // Without signals: Ctrl-C must not leave the terminal mute.
    quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
    let restore = Restore(before);
    tcsetattr(io::stdin(), SetArg::TCSANOW, &quiet).map_err(|error| cannot(error.into()))?;
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    drop(restore);
    print(b"\n")?;
    read.map_err(cannot)?;
    if line.contains(CTRL_C) {
        return Err(Failure::new(130, "the login was given up"));
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
