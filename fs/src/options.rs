//! The `-o` options as data: fuse-overlayfs's, mount(8)'s, and our own.
//!
//! Options are separated by commas; a backslash takes the next byte literally (as in overlayfs), so
//! paths may hold commas, and lower paths colons.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::idmap::IdMap;
use crate::ownership::Ownership;

/// What the options ask for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lower directories, topmost first.
    pub lowers: Vec<PathBuf>,
    /// Upper directory; none: the union is read-only.
    pub upper: Option<PathBuf>,
    /// Work directory.
    pub work: Option<PathBuf>,
    /// Owner mapping.
    pub ids: IdMap,
    /// `volatile`: never wait for the disk.
    pub volatile: bool,
    /// `fsync=0`: answer fsync requests at once.
    pub no_fsync: bool,
    /// `noacl`: ACLs are neither enforced nor shown.
    pub no_acl: bool,
    /// `static_nlink`.
    pub static_nlink: bool,
    /// `timeout=`, seconds.
    pub timeout: Option<f64>,
    /// `one_file_system`.
    pub one_file_system: bool,
    /// `hide=`: host paths not shown in the lowers.
    pub hide: Vec<PathBuf>,
    /// `xattr_permissions=`.
    pub ownership: Ownership,
    /// `unmapped_to_root`.
    pub unmapped_to_root: bool,
    /// `remount`: change the flags of a mount that is there.
    pub remount: bool,
    /// `allow_other`, or not; `None`: only where it is sure to be allowed.
    pub allow_other: Option<bool>,
    /// `fsname=`.
    pub fsname: Option<Vec<u8>>,
    /// `MS_*` flags and their names.
    pub mount_flags: Vec<(u64, &'static str)>,
    /// Options handed to the kernel as they are (SELinux contexts).
    pub kernel: Vec<String>,
    /// Options that mean nothing to us.
    pub unknown: Vec<String>,
}

/// Why options were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// An option needs a value.
    #[error("option {0} needs a value: {0}=…")]
    NoValue(String),
    /// A value cannot be used.
    #[error("option {0}={1}: {2}")]
    BadValue(String, String, &'static str),
    /// An option that would be unsafe to ignore is not there yet.
    #[error("option {0} is not supported by cowlfs: {1}")]
    Unsupported(String, &'static str),
    /// No lower at all.
    #[error("no lower layer given; say -o lowerdir=DIR[:DIR…]")]
    NoLower,
    /// An upper without a work directory.
    #[error("upperdir needs workdir=DIR, an empty directory on the same filesystem")]
    NoWork,
    /// A work directory without an upper.
    #[error("workdir is of no use without upperdir=DIR")]
    WorkAlone,
}

/// mount(8) flags: name, bits to set, bits to clear.
const FLAGS: &[(&str, u64, u64)] = &[
    ("ro", libc::MS_RDONLY, 0),
    ("rw", 0, libc::MS_RDONLY),
    ("nosuid", libc::MS_NOSUID, 0),
    ("suid", 0, libc::MS_NOSUID),
    ("nodev", libc::MS_NODEV, 0),
    ("dev", 0, libc::MS_NODEV),
    ("noexec", libc::MS_NOEXEC, 0),
    ("exec", 0, libc::MS_NOEXEC),
    ("noatime", libc::MS_NOATIME, 0),
    ("atime", 0, libc::MS_NOATIME),
    ("nodiratime", libc::MS_NODIRATIME, 0),
    ("diratime", 0, libc::MS_NODIRATIME),
    ("relatime", libc::MS_RELATIME, 0),
    ("norelatime", 0, libc::MS_RELATIME),
    ("strictatime", libc::MS_STRICTATIME, 0),
    ("sync", libc::MS_SYNCHRONOUS, 0),
    ("async", 0, libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC, 0),
    ("silent", libc::MS_SILENT, 0),
    ("loud", 0, libc::MS_SILENT),
];

/// Options of mount(8), fusermount3, fuse-overlayfs and kernel overlayfs that ask for what is so
/// anyway, or for nothing that a FUSE mount could do. Accepted in silence, as Podman and fstab pass
/// them:
/// `default_permissions` is always on; `defaults`, `auto`, `nofail`, `user`, `_netdev` are
/// mount(8)'s own; `subtype` is fixed; `max_idle_threads`, `clone_fd`, `threaded` tune libfuse;
/// `auto_unmount` is what a signal does; `user_id`, `group_id`, `rootmode` come back from the table of
/// mounts with `mount -o remount`; `userxattr`, `xino`, `index`, `redirect_dir`, `nfs_export`,
/// `metacopy` are kernel overlayfs's: the namespace is probed, inode numbers and hard links are kept
/// stable and directory renames work in any case, and no file is stored as metadata only.
const ACCEPTED: &[&str] = &[
    "default_permissions",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "subtype",
    "max_idle_threads",
    "max_threads",
    "clone_fd",
    "threaded",
    "auto_unmount",
    "userxattr",
    "xino",
    "ino32_t",
    "index",
    "redirect_dir",
    "nfs_export",
    "metacopy",
    "fast_ino",
    "debug",
    "writeback",
    "user_id",
    "group_id",
    "rootmode",
];

/// Splits at unescaped `separator` bytes; escapes stay in the parts.
fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut escaped = false;
    for &b in text {
        if b == separator && !escaped {
            parts.push(Vec::new());
            continue;
        }
        escaped = b == b'\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(b);
        }
    }
    parts
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&b) = bytes.next() {
        match b {
            b'\\' => out.extend(bytes.next()),
            _ => out.push(b),
        }
    }
    out
}

fn path(text: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(text)).into()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Options {
    /// Adds what one `-o` argument says.
    ///
    /// # Errors
    /// See [`OptionError`].
    pub fn add(&mut self, argument: &[u8]) -> Result<(), OptionError> {
        for part in split(argument, b',').iter().filter(|p| !p.is_empty()) {
            let (key, value) = match part.iter().position(|&b| b == b'=') {
                Some(at) => part.split_at_checked(at).unwrap_or((part, b"")),
                None => (&part[..], &b""[..]),
            };
            let has_value = !value.is_empty();
            let value = value.strip_prefix(b"=").unwrap_or(value);
            self.one(&text(key), value, has_value)?;
        }
        Ok(())
    }

    fn one(&mut self, key: &str, value: &[u8], has_value: bool) -> Result<(), OptionError> {
        const WITH_VALUE: &[&str] = &[
            "lowerdir",
            "lowerdir+",
            "upperdir",
            "workdir",
            "uidmapping",
            "gidmapping",
            "timeout",
            "squash_to_uid",
            "squash_to_gid",
            "hide",
            "fsname",
            "fsync",
        ];
        if WITH_VALUE.contains(&key) && !has_value {
            return Err(OptionError::NoValue(key.into()));
        }
        let bad = |why| OptionError::BadValue(key.into(), text(value), why);
        let number = || text(value).parse::<u32>().map_err(|_| bad("not a number"));
        let ranges = || {
            IdMap::parse_ranges(&text(value)).ok_or_else(|| bad("not INSIDE:OUTSIDE:LENGTH[:…]"))
        };
        match key {
            "lowerdir" => {
                self.lowers = split(value, b':')
                    .iter()
                    .map(|p| if p.is_empty() { Err(bad("an empty path")) } else { Ok(path(p)) })
                    .collect::<Result<_, _>>()?;
            }
            "lowerdir+" => self.lowers.push(path(value)),
            "upperdir" => self.upper = Some(path(value)),
            "workdir" => self.work = Some(path(value)),
            "uidmapping" => self.ids.uids = ranges()?,
            "gidmapping" => self.ids.gids = ranges()?,
            "squash_to_root" => (self.ids.squash_uid, self.ids.squash_gid) = (Some(0), Some(0)),
            "squash_to_uid" => self.ids.squash_uid = Some(number()?),
            "squash_to_gid" => self.ids.squash_gid = Some(number()?),
            "volatile" => self.volatile = true,
            "fsync" => self.no_fsync = number()? == 0,
            "noacl" => self.no_acl = true,
            "static_nlink" => self.static_nlink = true,
            "timeout" => {
                let seconds = text(value).parse::<f64>().ok().filter(|s| *s >= 0.0);
                self.timeout = Some(seconds.ok_or_else(|| bad("not a number of seconds"))?);
            }
            "one_file_system" => self.one_file_system = true,
            "hide" => self.hide.extend(split(value, b':').iter().map(|p| path(p))),
            "unmapped_to_root" => self.unmapped_to_root = true,
            "remount" => self.remount = true,
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "allow_root" => {
                return Err(OptionError::Unsupported(key.into(), "use allow_other"));
            }
            "fsname" => self.fsname = Some(unescape(value)),
            "xattr_permissions" => match number()? {
                0 => self.ownership = Ownership::Native,
                2 => self.ownership = Ownership::Kept,
                _ => {
                    return Err(bad(
                        "only 0 (off) and 2 (user.containers.override_stat) are known",
                    ));
                }
            },
            "context" | "fscontext" | "defcontext" | "rootcontext" => {
                self.kernel.push(format!("{key}={}", text(value)));
            }
            _ => {
                if let Some((name, set, clear)) = FLAGS.iter().find(|(name, ..)| *name == key) {
                    self.mount_flags.retain(|(bit, _)| bit & clear == 0);
                    if *set != 0 {
                        self.mount_flags.push((*set, name));
                    }
                } else if !ACCEPTED.contains(&key) && !key.starts_with("x-") {
                    self.unknown.push(key.into());
                }
            }
        }
        Ok(())
    }

    /// Checks what belongs together.
    ///
    /// # Errors
    /// See [`OptionError`].
    pub fn check(&self) -> Result<(), OptionError> {
        match (&self.upper, &self.work) {
            _ if self.remount => Ok(()),
            _ if self.lowers.is_empty() => Err(OptionError::NoLower),
            (Some(_), None) => Err(OptionError::NoWork),
            (None, Some(_)) => Err(OptionError::WorkAlone),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, OptionError> {
        let mut o = Options::default();
        o.add(text.as_bytes())?;
        Ok(o)
    }

    #[test]
    fn the_usual_line() {
        let o = parse("lowerdir=/a:/b,upperdir=/u,workdir=/w,nosuid,ro,rw,fsync=0").unwrap();
        assert_eq!(o.lowers, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(o.upper, Some("/u".into()));
        assert_eq!(o.mount_flags, [(libc::MS_NOSUID, "nosuid")]);
        assert!(o.no_fsync && o.unknown.is_empty());
        assert_eq!(o.check(), Ok(()));
    }

    #[test]
    fn escapes() {
        let o = parse(r"lowerdir=/a\:b:/c\,d:/e\\f,upperdir=/x\,y").unwrap();
        assert_eq!(o.lowers, ["/a:b", "/c,d", r"/e\f"].map(PathBuf::from));
        assert_eq!(o.upper, Some("/x,y".into()));
    }

    #[test]
    fn refusals() {
        for bad in
            ["lowerdir", "lowerdir=/a::/b", "timeout=-1", "uidmapping=0:1", "xattr_permissions=1"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("upperdir=/u").unwrap().check(), Err(OptionError::NoLower));
        assert_eq!(parse("lowerdir=/l,upperdir=/u").unwrap().check(), Err(OptionError::NoWork));
    }

    #[test]
    fn unknown_options_are_kept_for_a_warning() {
        assert_eq!(
            parse("lowerdir=/a,frobnicate=3,x-systemd.automount").unwrap().unknown,
            ["frobnicate"]
        );
    }
}
