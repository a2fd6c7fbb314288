//! The `-o` options as data: fuse-overlayfs's, mount(8)'s, and our own.
//!
//! Options are separated by commas; a backslash takes the next byte literally (as in overlayfs), so
//! paths may hold commas, and lower paths colons.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::idmap::IdMap;
use crate::overlay::Redirects;
use crate::ownership::{Ownership, Store};

pub mod list;

use list::{FLAGS, Part};

/// How the data of files gets to their readers and writers (`io=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// Through us and the page cache of the mount; written pages are kept back for a while.
    #[default]
    Cached,
    /// The kernel reads and writes the host's files itself.
    Passthrough,
    /// Passthrough where it is allowed, cached elsewhere.
    Auto,
}

/// What the options ask for.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// `io=`.
    pub io: Io,
    /// `noacl`: ACLs are neither enforced nor shown.
    pub no_acl: bool,
    /// `static_nlink`.
    pub static_nlink: bool,
    /// `cache=`: how many files may be known.
    pub cache: Option<usize>,
    /// `timeout=`, seconds.
    pub timeout: Option<f64>,
    /// `one_file_system`.
    pub one_file_system: bool,
    /// `hide=`: host paths not shown in the lowers.
    pub hide: Vec<PathBuf>,
    /// `xattr_permissions=`.
    pub ownership: Ownership,
    /// `redirect_dir=`.
    pub redirects: Redirects,
    /// `index=off`: names of one lower file are files of their own.
    pub no_index: bool,
    /// `userxattr`: marks are written in the `user.` namespace.
    pub user_marks: bool,
    /// `uuid=off`: the UUID of the layers' filesystem does not count.
    pub no_uuid: bool,
    /// `xino=on`: inode numbers must be the same after a remount.
    pub lasting_ino: bool,
    /// `ino32_t`: inode numbers fit in 32 bits.
    pub short_ino: bool,
    /// `writeback=0`.
    pub no_writeback: bool,
    /// `noxattrs`.
    pub no_xattrs: bool,
    /// `unmapped_to_root`.
    pub unmapped_to_root: bool,
    /// `chown_xattr`.
    pub chown_xattr: bool,
    /// `metacopy=on`.
    pub metacopy: bool,
    /// `copyup=block`: files larger than this, in bytes, are copied up in blocks.
    pub copy_up_blocks: Option<u64>,
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

/// Files up to this size (bytes) are copied whole even where blocks could be: keeping account of
/// blocks costs as much as copying so much.
const SMALL: u64 = 128 << 10;

/// Why options were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// An option needs a value.
    #[error("option {0} needs a value: {0}=…")]
    NoValue(String),
    /// A value cannot be used.
    #[error("option {0}={1}: {2}")]
    BadValue(String, String, &'static str),
    /// A value is none of those there are.
    #[error("option {0}={1}: use one of {2}")]
    Choice(String, String, String),
    /// An option that would be unsafe to ignore.
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
        let known = list::find(key);
        if known.is_some_and(list::Opt::needs_value) && !has_value {
            return Err(OptionError::NoValue(key.into()));
        }
        if let Some(choice) = known
            && let Some(mut choices) = choice.choices()
            && has_value
            && !choices.any(|c| c.as_bytes() == value)
        {
            return Err(OptionError::Choice(key.into(), text(value), list::choices(choice)));
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
            "fsync" => self.no_fsync = value == b"0",
            "io" => {
                self.io = match value {
                    b"passthrough" => Io::Passthrough,
                    b"auto" => Io::Auto,
                    _ => Io::Cached,
                }
            }
            "noacl" => self.no_acl = true,
            "static_nlink" => self.static_nlink = true,
            "cache" => {
                let count = text(value).parse().ok().filter(|n| *n > 0);
                self.cache = Some(count.ok_or_else(|| bad("not a number of files"))?);
            }
            "timeout" => {
                let seconds = text(value).parse::<f64>().ok().filter(|s| *s >= 0.0);
                self.timeout = Some(seconds.ok_or_else(|| bad("not a number of seconds"))?);
            }
            "one_file_system" => self.one_file_system = true,
            "hide" => self.hide.extend(split(value, b':').iter().map(|p| path(p))),
            "unmapped_to_root" => self.unmapped_to_root = true,
            "chown_xattr" => self.chown_xattr = true,
            "metacopy" => self.metacopy = value == b"on",
            "copyup" => {
                self.copy_up_blocks = match (value, value.strip_prefix(b"block:")) {
                    (b"block", _) => Some(SMALL),
                    (b"whole", _) => None,
                    (_, Some(size)) => match text(size).parse() {
                        Ok(size) => Some(size),
                        Err(_) => return Err(bad("block:BYTES needs a number")),
                    },
                    _ => return Err(bad("say whole, block, or block:BYTES")),
                };
            }
            "remount" => self.remount = true,
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "fsname" => self.fsname = Some(unescape(value)),
            "xattr_permissions" => {
                self.ownership = match value {
                    b"1" => Ownership::Kept(Store::Security),
                    b"2" => Ownership::Kept(Store::User),
                    _ => Ownership::Native,
                };
            }
            "redirect_dir" => {
                self.redirects = match value {
                    b"on" => Redirects::Made,
                    b"nofollow" => Redirects::Refused,
                    _ => Redirects::Followed,
                };
            }
            "index" => self.no_index = value == b"off",
            "userxattr" => self.user_marks = true,
            "uuid" => self.no_uuid = matches!(value, b"off" | b"null"),
            "xino" => self.lasting_ino = value == b"on",
            "ino32_t" => self.short_ino = true,
            "writeback" => self.no_writeback = value == b"0",
            "noxattrs" => self.no_xattrs = value != b"0",
            "nfs_export" | "verity" if value == b"off" => {}
            "context" | "fscontext" | "defcontext" | "rootcontext" => {
                self.kernel.push(format!("{key}={}", text(value)));
            }
            _ => {
                if let Some((name, set, clear)) = FLAGS.iter().find(|(name, ..)| *name == key) {
                    self.mount_flags.retain(|(bit, _)| bit & clear == 0);
                    if *set != 0 {
                        self.mount_flags.push((*set, name));
                    }
                } else if let Some(refused) = known.filter(|o| o.part == Part::Refused) {
                    return Err(OptionError::Unsupported(key.into(), refused.help));
                } else if known.is_none() && !key.starts_with("x-") {
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
        for bad in [
            "lowerdir",
            "lowerdir=/a::/b",
            "timeout=-1",
            "cache=0",
            "cache=many",
            "uidmapping=0:1",
            "xattr_permissions=3",
            "redirect_dir=maybe",
            "redirect_dir",
            "index=",
            "xino=1",
            "allow_root",
            "nfs_export=on",
            "verity=require",
            "plugins=x",
            "io=fast",
            "io=",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for good in ["nfs_export=off", "verity=off", "noxattrs=0", "user=me"] {
            assert_eq!(parse(good).unwrap(), Options::default(), "{good}");
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
    /// A value that is not the default, for an option that needs one.
    fn values(o: &list::Opt) -> Vec<String> {
        if let Some(choices) = o.choices() {
            return choices.map(Into::into).collect();
        }
        let value = match o.value {
            v if v.contains("IN:OUT") => "0:1000:1",
            "N" | "SECONDS" | "COUNT" => "7",
            "HOW" => "block:7",
            _ => "/x",
        };
        vec![value.into()]
    }

    #[test]
    fn every_option_has_an_effect_or_says_that_it_has_none() {
        let default = Options::default();
        for o in list::OPTIONS {
            let mut texts: Vec<String> = Vec::new();
            if !o.needs_value() {
                texts.push(o.name.into());
            }
            if !o.value.is_empty() {
                texts.extend(values(o).iter().map(|v| format!("{}={v}", o.name)));
            }
            let results: Vec<_> = texts.iter().map(|t| parse(t)).collect();
            let changed = results.iter().flatten().any(|r| *r != default);
            let refused = results.iter().any(Result::is_err);
            match o.part {
                Part::Accepted => assert!(!changed && !refused, "{}", o.name),
                Part::Refused => assert!(!changed && refused, "{}", o.name),
                _ => assert!(changed && !refused, "{}: {results:?}", o.name),
            }
        }
        for (name, set, _) in list::FLAGS {
            let flags = parse(name).unwrap().mount_flags;
            assert_eq!(flags.iter().map(|(bit, _)| bit).sum::<u64>(), *set, "{name}");
        }
    }

    /// A generator of numbers that is the same everywhere (Numerical Recipes' LCG).
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % sides
        }
    }

    #[test]
    fn anything_can_be_parsed_without_a_panic() {
        let mut words: Vec<&[u8]> = list::OPTIONS.iter().map(|o| o.name.as_bytes()).collect();
        words.extend(list::FLAGS.iter().map(|(name, ..)| name.as_bytes()));
        words.extend([
            &b"="[..],
            b",",
            b":",
            b"\\",
            b"",
            b"on",
            b"off",
            b"-1",
            b"0",
            b"/a",
            b"\xff\xfe",
        ]);
        words.extend([
            &b"4294967296"[..],
            b"1e400",
            b"nan",
            b"inf",
            b"0:0:4294967295",
            b"\0",
            b"\xc3\xa9",
        ]);
        let mut dice = Dice(1);
        for _ in 0..50_000 {
            let mut line = Vec::new();
            for _ in 0..dice.roll(8) {
                line.extend_from_slice(words[dice.roll(words.len())]);
                if dice.roll(4) == 0 {
                    line.push(dice.roll(256) as u8);
                }
            }
            let mut o = Options::default();
            if o.add(&line).is_ok() {
                let _may_be_refused = o.check();
            }
        }
    }

    /// A path as someone who knows the rules writes it.
    fn escape(path: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &b in path {
            if matches!(b, b',' | b':' | b'\\') {
                out.push(b'\\');
            }
            out.push(b);
        }
        out
    }

    #[test]
    fn escaped_paths_come_back() {
        let mut dice = Dice(7);
        for _ in 0..5_000 {
            let paths: Vec<Vec<u8>> = (0..3)
                .map(|_| {
                    let len = 1 + dice.roll(12);
                    let odd = b",:\\= a/\xff";
                    let any = |d: &mut Dice| {
                        if d.roll(2) == 0 { odd[d.roll(odd.len())] } else { 1 + d.roll(255) as u8 }
                    };
                    (0..len).map(|_| any(&mut dice)).collect()
                })
                .collect();
            let lowers = paths.iter().map(|p| escape(p)).collect::<Vec<_>>().join(&b':');
            let upper = escape(&paths[0]);
            let line = [b"ro,lowerdir=", &lowers[..], b",upperdir=", &upper, b",volatile"].concat();
            let mut o = Options::default();
            o.add(&line).unwrap();
            let want: Vec<PathBuf> =
                paths.iter().map(|p| OsString::from_vec(p.clone()).into()).collect();
            assert_eq!((&o.upper, &o.lowers), (&Some(want[0].clone()), &want));
            assert!(o.volatile && o.unknown.is_empty());
        }
    }
}
