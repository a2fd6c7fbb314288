//! The command line of `cowlfs`, compatible with fuse-overlayfs's.

mod pack;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::options::{Io, OptionError, Options, list};
use crate::overlay::Overlay;
use crate::packed::PackError;
use crate::serve::mount::{Mount, MountError, MountOptions, mount, remount};
use crate::serve::probe::ask_kernel;
use crate::serve::{Policy, Session, explain, negotiate};
use crate::start::{StartError, open_union};
use crate::sys::{self, Errno};

const USAGE: &str = "\
usage: cowlfs [-f] [--ready-fd FD] -o OPTION[,OPTION…] [SOURCE] MOUNTPOINT
       cowlfs --complete -o lowerdir=…,upperdir=…,workdir=…
       cowlfs --probe [-o OPTION,…]
       cowlfs --pack DIRECTORY NEW-DIRECTORY
       cowlfs --check LAYER

Mounts a union of directories, copying on write.

  -f               stay in the foreground
  -d, --debug      stay in the foreground; say what was chosen and why, and at the end which
                   requests were answered
  --probe          say what the kernel and the layers can do and what would be chosen, and why
  --ready-fd FD    write one byte to FD once the mount is usable
  -o OPTION,…      see below; may be repeated
  --complete       give files that copyup=block or metacopy=on left without (some of) their
                   data all of it, so that other tools can use the upper; nothing is mounted
  --pack           make a packed layer of a directory: lowerdir=NEW-DIRECTORY/layer.index
  --check          read all of a packed layer and compare it with its digests
  -h, --help       this text
  -V, --version    the version

  --man            the manual page, for man(1): cowlfs --man | man -l -

Options (a backslash takes the next character of a value literally):
";

/// Why the program ends with a failure; the text is what the user reads.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}; see cowlfs --help")]
    Usage(String),
    #[error("{0}")]
    Option(#[from] OptionError),
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    Mount(#[from] MountError),
    #[error("mount point {path}: {why}", path = .0.display(), why = .1)]
    MountPoint(PathBuf, std::io::Error),
    #[error("cannot {0}: {why}", why = .1.desc())]
    System(&'static str, Errno),
    #[error("cannot complete {0} in the upper: {why}; the lowers must be those that it was written over", why = .1.desc())]
    Complete(String, Errno),
    #[error("{0}")]
    Pack(#[from] PackError),
    #[error("io=passthrough is not possible here: {0}; use io=auto or io=cached")]
    Passthrough(&'static str),
    #[error("the kernel ended the conversation: {why}", why = .0.desc())]
    Session(Errno),
}

/// What the arguments ask for.
struct Arguments {
    foreground: bool,
    /// Say what happens on standard error.
    debug: bool,
    ready: Option<i32>,
    options: Options,
    mountpoint: PathBuf,
}

enum Request {
    Say(String),
    Complete(Box<Options>),
    Mount(Box<Arguments>),
    Probe(Box<Options>),
    /// Pack this directory into that.
    Pack(PathBuf, PathBuf),
    /// Check this packed layer.
    Check(PathBuf),
}

fn parse(args: Vec<OsString>) -> Result<Request, Failure> {
    let usage = |text: &str| Failure::Usage(text.into());
    let (mut foreground, mut debug, mut probe, mut ready) = (false, false, false, None);
    let (mut complete, mut pack, mut check) = (false, false, false);
    let mut options = Options::default();
    let mut positional: Vec<PathBuf> = Vec::new();
    let mut args = args.into_iter();
    let mut only_positional = false;
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        if only_positional || !bytes.starts_with(b"-") || bytes == b"-" {
            positional.push(arg.into());
            continue;
        }
        match bytes {
            b"--" => only_positional = true,
            b"-f" | b"--foreground" => foreground = true,
            b"-d" | b"--debug" => (foreground, debug) = (true, true),
            b"--complete" => complete = true,
            b"--pack" => pack = true,
            b"--check" => check = true,
            b"-s" => {} // libfuse's "one thread": the answers are the same
            b"-h" | b"--help" => return Ok(Request::Say(USAGE.to_owned() + &list::help())),
            b"--man" => return Ok(Request::Say(list::man(env!("CARGO_PKG_VERSION")))),
            b"-V" | b"--version" => {
                return Ok(Request::Say(format!("cowlfs {}\n", env!("CARGO_PKG_VERSION"))));
            }
            b"--probe" => probe = true,
            b"-o" => {
                let value = args.next().ok_or_else(|| usage("-o needs options"))?;
                options.add(value.as_bytes())?;
            }
            b"--ready-fd" => {
                let value = args.next().ok_or_else(|| usage("--ready-fd needs a number"))?;
                let number = value.to_str().and_then(|v| v.parse().ok());
                ready = Some(number.ok_or_else(|| usage("--ready-fd needs a number"))?);
            }
            _ => match bytes.strip_prefix(b"-o") {
                Some(value) => options.add(value)?,
                None => return Err(Failure::Usage(format!("unknown argument {}", arg.display()))),
            },
        }
    }
    if pack {
        let Ok([from, to]) = <[PathBuf; 2]>::try_from(positional) else {
            return Err(usage("--pack takes a directory and the name of a new one"));
        };
        return Ok(Request::Pack(from, to));
    }
    if check {
        let Ok([layer]) = <[PathBuf; 1]>::try_from(positional) else {
            return Err(usage("--check takes one packed layer"));
        };
        return Ok(Request::Check(layer));
    }
    if complete {
        if let Some(extra) = positional.first() {
            let extra = extra.display();
            return Err(Failure::Usage(format!("--complete takes options only, not {extra}")));
        }
        options.check()?;
        if options.upper.is_none() {
            return Err(usage("--complete needs upperdir= and workdir="));
        }
        return Ok(Request::Complete(Box::new(options)));
    }
    if probe {
        if !options.lowers.is_empty() {
            options.check()?;
        }
        return Ok(Request::Probe(Box::new(options)));
    }
    // mount(8) calls a helper with the source before the mount point.
    let mountpoint = match positional.len() {
        0 => return Err(usage("no mount point given")),
        1 | 2 => positional.pop().ok_or_else(|| usage("no mount point given"))?,
        _ => return Err(usage("more than one mount point given")),
    };
    options.check()?;
    Ok(Request::Mount(Box::new(Arguments { foreground, debug, ready, options, mountpoint })))
}

/// Runs the program; returns its exit status.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let done = match parse(args) {
        Ok(Request::Say(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Request::Mount(arguments)) => run(*arguments),
        Ok(Request::Complete(options)) => complete(&options),
        Ok(Request::Probe(options)) => probe(*options),
        Ok(Request::Pack(from, to)) => pack(&from, &to),
        Ok(Request::Check(layer)) => check(&layer),
        Err(e) => Err(e),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("cowlfs: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Gives every file of an upper all its data (`--complete`).
fn complete(options: &Options) -> Result<ExitCode, Failure> {
    sys::process::clear_umask();
    let overlay = open_union(options, None)?;
    let completed = overlay
        .complete_all()
        .map_err(|(path, e)| Failure::Complete(String::from_utf8_lossy(&path).into_owned(), e))?;
    println!("cowlfs: {completed} files of the upper have all their data now");
    Ok(ExitCode::SUCCESS)
}

/// `--pack`: makes a packed layer of a directory.
fn pack(from: &Path, to: &Path) -> Result<ExitCode, Failure> {
    let made = pack::pack(from, to)?;
    println!("cowlfs: packed {} inodes, {} bytes of content", made.inodes, made.bytes);
    Ok(ExitCode::SUCCESS)
}

/// `--check`: compares a packed layer with its digests.
fn check(layer: &Path) -> Result<ExitCode, Failure> {
    let inodes = pack::check(layer)?;
    println!("cowlfs: the packed layer is whole: {inodes} inodes");
    Ok(ExitCode::SUCCESS)
}

/// `--probe`: says what is possible here and what would be chosen.
fn probe(mut options: Options) -> Result<ExitCode, Failure> {
    let offer =
        ask_kernel().map_err(|e| Failure::System("ask the kernel what its FUSE can do", e))?;
    let (major, minor) = offer.version;
    println!("FUSE protocol of the kernel: {major}.{minor}, flags {:#x}", offer.flags);
    let machine = sys::process::rules_the_machine();
    let (uid, _) = sys::process::ids();
    let rights = match (machine, uid) {
        (true, _) => "CAP_SYS_ADMIN in the initial user namespace",
        (false, 0) => "root of a user namespace",
        (false, _) => "an ordinary user: mounting needs fusermount3",
    };
    println!("rights: {rights}");
    match offer.passthrough {
        Ok(()) => println!("passthrough: possible (io=passthrough or io=auto)"),
        Err(Errno::EOPNOTSUPP) => println!("passthrough: not possible (the kernel has none)"),
        Err(e) => println!("passthrough: not possible ({})", e.desc()),
    }
    decide_io(&mut options)?;
    let opened = (!options.lowers.is_empty()).then(|| open_union(&options, None)).transpose()?;
    let mut policy = match &opened {
        Some(overlay) => policy_for(&options, overlay),
        None => Policy::new(true, !options.no_acl),
    };
    if policy.passthrough && offer.passthrough.is_err() {
        policy.set_passthrough(false);
    }
    let agreed = negotiate(&policy, offer.flags, offer.max_readahead);
    let lines = match &opened {
        Some(overlay) => explain::all(&policy, &agreed, overlay),
        None => explain::serving(&policy, &agreed),
    };
    for line in lines {
        println!("{line}");
    }
    match opened.as_ref().and_then(|o| o.upper()) {
        Some(upper) => {
            upper.close().map_err(|e| Failure::System("finish the volatile upper", e))?;
        }
        None => println!("upper: not given (-o lowerdir=…,upperdir=…,workdir=… probes it)"),
    }
    Ok(ExitCode::SUCCESS)
}

fn policy_for(options: &Options, overlay: &Overlay) -> Policy {
    let acls = !options.no_acl && overlay.upper().is_none_or(|u| u.features().acls);
    let mut policy = Policy::new(overlay.writable(), acls && !options.no_xattrs);
    policy.writeback &= !options.no_writeback;
    policy.xattrs = !options.no_xattrs;
    policy.chown_xattr = options.chown_xattr;
    policy.cache = options.cache;
    if let Some(seconds) = options.timeout {
        policy.set_timeout(seconds);
    }
    policy.set_passthrough(options.io == Io::Passthrough);
    policy
}

fn run(mut arguments: Arguments) -> Result<ExitCode, Failure> {
    for name in &arguments.options.unknown {
        eprintln!("cowlfs: warning: option {name} is not known and has no effect");
    }
    // The daemon changes its working directory.
    let given = &arguments.mountpoint;
    arguments.mountpoint =
        given.canonicalize().map_err(|e| Failure::MountPoint(given.clone(), e))?;
    if arguments.options.remount {
        let flags = mount_options(&arguments.options).flags;
        remount(&arguments.mountpoint, flags)?;
        return Ok(ExitCode::SUCCESS);
    }
    decide_io(&mut arguments.options)?;
    let ready = arguments
        .ready
        .map(|fd| sys::fuse::adopt(fd).map_err(|e| Failure::System("use the ready descriptor", e)))
        .transpose()?;
    if arguments.foreground {
        return serve(&arguments, ready, None);
    }
    let pipe = || Failure::System("make a pipe", Errno::EMFILE);
    let (mut reader, writer) = std::io::pipe().map_err(|_| pipe())?;
    let child = sys::process::fork().map_err(|e| Failure::System("go to the background", e))?;
    match child {
        None => {
            drop(reader);
            serve(&arguments, ready, Some(writer.into()))
        }
        Some(child) => {
            drop(writer);
            // One byte: the mount is usable. None: the child has said why not.
            let mut byte = [0u8];
            match reader.read(&mut byte) {
                Ok(1) => Ok(ExitCode::SUCCESS),
                _ => {
                    sys::process::wait(child);
                    Ok(ExitCode::FAILURE)
                }
            }
        }
    }
}

/// Passthrough or not: the kernel lets only the machine's own administrator hand it files.
fn decide_io(options: &mut Options) -> Result<(), Failure> {
    let allowed = sys::process::rules_the_machine();
    options.io = match options.io {
        Io::Passthrough if !allowed => {
            return Err(Failure::Passthrough(
                "it needs CAP_SYS_ADMIN in the initial user namespace",
            ));
        }
        Io::Passthrough => Io::Passthrough,
        Io::Auto if allowed => Io::Passthrough,
        Io::Auto | Io::Cached => Io::Cached,
    };
    Ok(())
}

fn mount_options(options: &Options) -> MountOptions {
    let mut flags = options.mount_flags.iter().fold(0, |all, (bit, _)| all | bit);
    let mut names: Vec<String> =
        options.mount_flags.iter().map(|(_, name)| (*name).to_owned()).collect();
    if options.upper.is_none() && !options.remount && flags & libc::MS_RDONLY == 0 {
        flags |= libc::MS_RDONLY;
        names.push("ro".into());
    }
    let (uid, _) = sys::process::ids();
    MountOptions {
        source: options.fsname.clone().unwrap_or_else(|| b"cowlfs".to_vec()),
        flags,
        flag_names: names,
        allow_other: options.allow_other.unwrap_or(uid == 0),
        extra: options.kernel.clone(),
    }
}

/// Tells whoever waits that the mount is usable.
fn announce(fd: OwnedFd) {
    let mut file = std::fs::File::from(fd);
    // Nobody may be listening any more; the mount serves others all the same.
    let _nobody = file.write_all(b"1");
}

fn serve(
    arguments: &Arguments,
    ready: Option<OwnedFd>,
    parent: Option<OwnedFd>,
) -> Result<ExitCode, Failure> {
    let options = &arguments.options;
    sys::process::large_blocks_apart();
    sys::process::clear_umask();
    sys::process::block_signals().map_err(|e| Failure::System("block signals", e))?;
    let path: &Path = &arguments.mountpoint;
    let overlay = open_union(options, Some(path))?;
    let passthrough = options.io == Io::Passthrough;
    let policy = policy_for(options, &overlay);
    let (mounted, device) = mount(path, &mount_options(options))?;
    let session = match Session::start(overlay, device, policy) {
        Ok(session) => Arc::new(session),
        Err(e) => {
            mounted.unmount();
            return Err(Failure::Session(e));
        }
    };
    if arguments.debug {
        for line in session.explain() {
            eprintln!("cowlfs: {line}");
        }
    }
    if passthrough && let Err(e) = session.try_passthrough() {
        mounted.unmount();
        return Err(Failure::Passthrough(e.desc()));
    }
    mounted.tune(session.room());
    end_on_signal(&mounted)?;
    if parent.is_some() {
        // Errors have been told by now; from here on there is nobody to tell.
        sys::process::detach().map_err(|e| Failure::System("leave the terminal", e))?;
    }
    for fd in ready.into_iter().chain(parent) {
        announce(fd);
    }
    let done = session.run().map_err(Failure::Session);
    if arguments.debug {
        eprintln!("cowlfs: {}", session.requests());
    }
    if let Some(upper) = session.overlay().upper() {
        // Whoever mounts the layers again waits for what is left to do, and does not think them used.
        upper.unlock();
        let closed = session.overlay().close();
        closed.map_err(|e| Failure::System("bring the upper to the disk", e))?;
    }
    done.map(|()| ExitCode::SUCCESS)
}

/// Starts the thread that unmounts when the program is told to end.
fn end_on_signal(mounted: &Mount) -> Result<(), Failure> {
    let mounted = mounted.clone();
    std::thread::Builder::new()
        .name("cowlfs-signal".into())
        .spawn(move || {
            sys::process::wait_signal();
            if !mounted.unmount() {
                // Its last users would keep the program for ever.
                std::process::exit(0);
            }
        })
        .map(drop)
        .map_err(|_| Failure::System("start a thread", Errno::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &[&str]) -> Vec<OsString> {
        list.iter().map(Into::into).collect()
    }

    #[test]
    fn sources_and_joined_options() {
        let Ok(Request::Mount(a)) =
            parse(args(&["-f", "-olowerdir=/a", "overlay", "/m", "-o", "ro"]))
        else {
            panic!("refused");
        };
        assert!(a.foreground);
        assert_eq!(a.mountpoint, PathBuf::from("/m"));
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            &["-f"][..],
            &["-o"],
            &["--frob", "/m"],
            &["-o", "lowerdir=/a"],
            &["-o", "lowerdir=/a", "a", "b", "c"],
            &["--ready-fd", "x", "/m"],
            &["--pack", "/a"],
            &["--check"],
            &["--check", "/a", "/b"],
        ] {
            assert!(parse(args(bad)).is_err(), "{bad:?}");
        }
    }
}
