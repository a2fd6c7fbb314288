//! `create` and `start`.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};

use super::config::Config;
use super::state::{Bundle, GATE, Status, make_dir, read_config, remove_dir};
use super::{Error, hooks, io_error, step, translate};
use crate::container::state::Process;
use crate::image::moment;
use crate::sandbox::{self, Begun, Failed, Streams, Word};
use crate::sys;
use crate::sys::tty::WindowSize;

/// How `create` is called.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Where the bundle is.
    pub bundle: PathBuf,
    /// Where the number of PID 1 is written.
    pub pid_file: Option<PathBuf>,
    /// The socket to which the terminal is sent.
    pub console_socket: Option<PathBuf>,
    /// Descriptors from 3 on that the command inherits.
    pub preserve_fds: u32,
}

/// Makes a container; PID 1 waits for `start`. This process's streams become its streams.
pub fn create(root: &Path, id: &str, options: &CreateOptions) -> Result<Bundle, Error> {
    let bundle = fs::canonicalize(&options.bundle).map_err(io_error("find", &options.bundle))?;
    let config = read_config(&bundle)?;
    let wanted = config.root.as_ref().ok_or_else(|| Error::Invalid("root is missing".into()))?;
    let rootfs = bundle.join(&wanted.path);
    let rootfs = fs::canonicalize(&rootfs).map_err(io_error("find", &rootfs))?;
    // What cannot be done is said before anything is made.
    refuse(&config)?;
    translate::plan(&config, rootfs.clone())?;
    let terminal = config.process.as_ref().is_some_and(|process| process.terminal);
    if terminal != options.console_socket.is_some() {
        return Err(Error::Invalid(if terminal {
            "process.terminal needs --console-socket".to_owned()
        } else {
            "--console-socket needs process.terminal".to_owned()
        }));
    }
    let dir = make_dir(root, id, &config)?;
    let made = build(id, &dir, &bundle, rootfs, &config, options);
    if made.is_err() {
        // The first error is the one to report.
        remove_dir(&dir).ok();
    }
    made
}

/// What is not there at all.
fn refuse(config: &Config) -> Result<(), Error> {
    let limited = config.linux.resources.as_ref().and_then(serde_json::Value::as_object);
    if let Some(name) = limited
        .into_iter()
        .flatten()
        // The list of devices only repeats what the namespaces forbid anyway.
        .find(|(name, value)| *name != "devices" && !is_empty(value))
        .map(|(name, _)| name)
    {
        return Err(Error::Unsupported(format!("linux.resources.{name}")));
    }
    Ok(())
}

/// Whether a part of the resources limits nothing.
fn is_empty(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.iter().all(is_empty),
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64().is_some_and(|number| number <= 0),
        Value::String(text) => text.is_empty(),
    }
}

fn build(
    id: &str,
    dir: &Path,
    bundle: &Path,
    rootfs: PathBuf,
    config: &Config,
    options: &CreateOptions,
) -> Result<Bundle, Error> {
    let mut plan = translate::plan(config, rootfs.clone())?;
    let gate = gate(dir)?;
    plan.process.gate = Some(Arc::new(gate));
    plan.process.inherited = options.preserve_fds;
    separate(&rootfs)?;
    let streams = streams(config)?;
    let mut record = Bundle {
        id: id.to_owned(),
        bundle: bundle.to_owned(),
        rootfs,
        init: Process { pid: 0, started: 0 },
        created: now(),
        owner: nix::unistd::User::from_uid(nix::unistd::geteuid())
            .ok()
            .flatten()
            .map_or_else(String::new, |user| user.name),
        annotations: config.annotations.clone(),
        dir: dir.to_owned(),
    };
    let prepare = |init: &sys::process::Child| {
        record.init = Process::note(init.pid);
        let mut state = record.state();
        state.status = Status::Created;
        state.pid = init.pid.as_raw();
        hooks::outside("prestart", &config.hooks.prestart, &state)
            .and_then(|()| hooks::outside("createRuntime", &config.hooks.create_runtime, &state))
            .and_then(|()| hooks::inside("createContainer", &config.hooks.create_container, &state))
            .map_err(|error| error.to_string())
    };
    let started = sandbox::start(&plan, streams, prepare);
    let Begun { init, terminal, .. } =
        started.map_err(|Failed { exit_code, message, .. }| Error::Start { exit_code, message })?;
    let finished = (|| {
        if let (Some(socket), Some(master)) = (&options.console_socket, &terminal) {
            send_terminal(socket, master)?;
        }
        record.save()?;
        if let Some(path) = &options.pid_file {
            write_pid(path, init.pid.as_raw())?;
        }
        Ok(())
    })();
    if let Err(error) = finished {
        // What is reported is why it could not go on.
        sys::process::kill(init.as_fd(), Signal::SIGKILL as i32).ok();
        init.wait().ok();
        return Err(error);
    }
    Ok(record)
}

/// Writes the number of a process into a file that appears with its content.
pub fn write_pid(path: &Path, pid: i32) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = path.with_file_name(format!(".{name}"));
    fs::write(&beside, pid.to_string()).map_err(io_error("write", &beside))?;
    fs::rename(&beside, path).map_err(io_error("write", path))
}

/// RFC 3339, now.
fn now() -> String {
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    moment::format(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}

/// A name for a socket in a directory whose own name may be too long for one.
fn address(dir: &OwnedFd, name: &str) -> Result<UnixAddr, Error> {
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    UnixAddr::new(path.as_str()).map_err(step("name a socket"))
}

fn sequenced() -> Result<OwnedFd, Error> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(step("make a socket"))
}

/// The socket at which PID 1 waits.
fn gate(dir: &Path) -> Result<OwnedFd, Error> {
    let folder: OwnedFd = fs::File::open(dir).map_err(io_error("open", dir))?.into();
    let socket = sequenced()?;
    bind(socket.as_raw_fd(), &address(&folder, GATE)?).map_err(step("bind a socket"))?;
    let one = Backlog::new(1).map_err(step("listen"))?;
    listen(&socket, one).map_err(step("listen"))?;
    Ok(socket)
}

/// Gives this process a view of filesystems of its own, in which the root filesystem is a mount.
fn separate(rootfs: &Path) -> Result<(), Error> {
    let failed = || step("separate the view of filesystems");
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed())?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(failed())?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(rootfs), rootfs, none, bind, none).map_err(failed())?;
    mount(none, rootfs, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed())
}

fn streams(config: &Config) -> Result<Streams, Error> {
    let process = config.process.as_ref();
    if process.is_some_and(|process| process.terminal) {
        let size = process.and_then(|process| process.console_size).map(|size| WindowSize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        });
        return Ok(Streams::Terminal(size));
    }
    own_streams()
}

/// This process's streams, once more.
pub fn own_streams() -> Result<Streams, Error> {
    let copy = |stream: std::os::fd::BorrowedFd<'_>| {
        stream.try_clone_to_owned().map_err(io_error("use", Path::new("the standard streams")))
    };
    Ok(Streams::Separate([
        copy(std::io::stdin().as_fd())?,
        copy(std::io::stdout().as_fd())?,
        copy(std::io::stderr().as_fd())?,
    ]))
}

/// Sends a terminal to whoever listens at a socket, with its name.
pub fn send_terminal(path: &Path, master: &OwnedFd) -> Result<(), Error> {
    let socket = UnixStream::connect(path).map_err(io_error("connect to", path))?;
    let number = sys::tty::number(master.as_fd()).map_err(step("name the terminal"))?;
    let name = format!("/dev/pts/{number}");
    sys::descriptor::send(socket.as_fd(), name.as_bytes(), &[master.as_fd()])
        .map_err(step("send the terminal"))
}

/// Lets the PID 1 of a created container go on.
pub fn start(bundle: &Bundle) -> Result<(), Error> {
    let status = bundle.status();
    if status != Status::Created {
        return Err(Error::Status { verb: "start", status, id: bundle.id.clone() });
    }
    let config = bundle.config()?;
    let mut state = bundle.state();
    hooks::inside("startContainer", &config.hooks.start_container, &state)?;
    let folder: OwnedFd =
        fs::File::open(&bundle.dir).map_err(io_error("open", &bundle.dir))?.into();
    let socket = sequenced()?;
    connect(socket.as_raw_fd(), &address(&folder, GATE)?).map_err(step("reach PID 1"))?;
    let heard = sys::descriptor::receive(socket.as_fd()).map_err(step("hear PID 1"))?;
    let path = bundle.dir.join(GATE);
    fs::remove_file(&path).map_err(io_error("remove", &path))?;
    if let Some((text, _)) = heard {
        return match serde_json::from_slice::<Word>(&text) {
            Ok(Word::Failed { exit_code, message }) => Err(Error::Start { exit_code, message }),
            _ => Err(Error::Start { exit_code: 125, message: "PID 1 said something odd".into() }),
        };
    }
    state.status = Status::Running;
    hooks::outside("poststart", &config.hooks.poststart, &state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(linux: &str) -> Config {
        serde_json::from_str(&format!(r#"{{"linux":{linux}}}"#)).unwrap()
    }

    #[test]
    fn limits_that_cannot_be_set_are_refused() {
        let devices =
            r#"{"resources":{"devices":[{"allow":false,"access":"rwm"}],"pids":{"limit":0}}}"#;
        assert!(refuse(&config(devices)).is_ok());
        for (linux, said) in [
            (r#"{"resources":{"memory":{"limit":1000000}}}"#, "linux.resources.memory"),
            (r#"{"resources":{"pids":{"limit":100}}}"#, "linux.resources.pids"),
        ] {
            let error = refuse(&config(linux)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
