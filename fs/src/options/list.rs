//! All options, as data: what `--help`, the manual page and `docs/options.md` are made of, and what
//! the parser knows a name by.

use std::fmt::Write;

/// What an option is about: the heading it stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Where things are.
    Layers,
    /// Owners and permissions.
    Owners,
    /// How files look to programs.
    View,
    /// What is stored in the upper, and how.
    Storage,
    /// The mount itself.
    Mount,
    /// Asks for what is so anyway, or for nothing that could be done.
    Accepted,
    /// Not there; saying so is safer than to go on without.
    Refused,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its name.
    pub name: &'static str,
    /// Form of its value: `A|B` for a choice, in brackets where it may be left out, empty for none.
    pub value: &'static str,
    /// Its heading.
    pub part: Part,
    /// What it does.
    pub help: &'static str,
}

impl Opt {
    /// Whether it is an error to give it without a value.
    pub fn needs_value(&self) -> bool {
        !self.value.is_empty() && !self.value.starts_with('[')
    }

    /// The values of a choice.
    pub fn choices(&self) -> Option<impl Iterator<Item = &'static str>> {
        let bare = self.value.trim_start_matches("[=").trim_end_matches(']');
        bare.contains('|').then(|| bare.split('|'))
    }

    /// As it is written on a command line.
    pub fn usage(&self) -> String {
        match self.value {
            "" => self.name.into(),
            v if v.starts_with('[') => format!("{}{v}", self.name),
            v => format!("{}={v}", self.name),
        }
    }
}

const fn opt(part: Part, name: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { name, value, part, help }
}

use Part::{Accepted, Layers, Mount, Owners, Refused, Storage, View};

/// The headings, in order.
const PARTS: &[(Part, &str)] = &[
    (Layers, "Layers"),
    (Owners, "Owners and permissions"),
    (View, "What programs see"),
    (Storage, "What is stored"),
    (Mount, "The mount"),
    (Accepted, "Accepted without effect"),
    (Refused, "Refused"),
];

/// Every option that is known.
pub const OPTIONS: &[Opt] = &[
    opt(
        Layers,
        "lowerdir",
        "A[:B…]",
        "read-only layers, topmost first: directories, or indexes of packed layers",
    ),
    opt(Layers, "lowerdir+", "DIR", "one more layer below those given so far"),
    opt(Layers, "upperdir", "DIR", "takes all changes; without it the mount is read-only"),
    opt(Layers, "workdir", "DIR", "scratch directory on the same filesystem as upperdir"),
    opt(
        Layers,
        "one_file_system",
        "",
        "directories of a lower that something else is mounted on are shown empty",
    ),
    opt(Layers, "hide", "A[:B…]", "paths of the host that the lowers do not show"),
    opt(Owners, "uidmapping", "IN:OUT:LEN[:…]", "user ids IN… of the mount are OUT… in the layers"),
    opt(Owners, "gidmapping", "IN:OUT:LEN[:…]", "the same for groups"),
    opt(Owners, "squash_to_root", "", "every file is shown as root's"),
    opt(Owners, "squash_to_uid", "N", "every file is shown with this owner"),
    opt(Owners, "squash_to_gid", "N", "every file is shown with this group"),
    opt(
        Owners,
        "xattr_permissions",
        "0|1|2",
        "owners, modes and devices that the host refuses to store: 0 fail, 2 are kept in \
         user.containers.override_stat (as Podman does), 1 in security.fuseoverlayfs.override_stat \
         (root only; symbolic links too); a layer whose root carries such an xattr is read so in \
         any case",
    ),
    opt(
        Owners,
        "unmapped_to_root",
        "",
        "owners that this user namespace does not map are shown as root",
    ),
    opt(
        Owners,
        "chown_xattr",
        "",
        "setting the xattr user.cowl.chown to UID:GID changes the owner, also to ids for which the \
         kernel refuses chown(2) in a user namespace; needs xattr_permissions",
    ),
    opt(Owners, "noacl", "", "neither enforce nor show POSIX ACLs"),
    opt(
        View,
        "static_nlink",
        "",
        "directories show a link count of 1; saves counting on slow filesystems",
    ),
    opt(
        View,
        "xino",
        "on|off|auto",
        "inode numbers are unique in the mount and survive copy-up in any case; on: refuse an upper \
         that cannot keep them over a remount (no xattrs)",
    ),
    opt(
        View,
        "ino32_t",
        "",
        "inode numbers of at most 32 bits, for programs that cannot take more; unique, and the same \
         until the unmount",
    ),
    opt(
        View,
        "cache",
        "COUNT",
        "how many files may be remembered that nobody uses (default: while memory lasts)",
    ),
    opt(
        View,
        "timeout",
        "SECONDS",
        "how long the kernel may keep names and attributes (default: for ever)",
    ),
    opt(
        Storage,
        "volatile",
        "",
        "never wait for the disk; the upper is lost after a crash of the machine",
    ),
    opt(
        Mount,
        "io",
        "cached|passthrough|auto",
        "cached (default): data goes through the page cache of the mount; passthrough: the kernel reads and \
         writes the layers' files itself, which needs CAP_SYS_ADMIN in the initial user namespace; auto: \
         passthrough where that is possible",
    ),
    opt(Storage, "fsync", "0|1", "0: answer fsync at once"),
    opt(
        Storage,
        "copyup",
        "HOW",
        "whole (default): the first change of a file's data copies all of it; block: it copies the blocks \
         of 4 KiB that it touches, in files larger than BYTES (131072), and a change of attributes, a \
         rename or a link copies none; other tools can use the upper after cowlfs --complete",
    ),
    opt(
        Storage,
        "metacopy",
        "on|off",
        "on: a change of attributes, a rename or a link copies no data, in overlayfs's metacopy format; \
         off (default)",
    ),
    opt(
        Storage,
        "redirect_dir",
        "on|off|follow|nofollow",
        "on (default): renaming a directory of a lower leaves a redirect; off or follow: it fails with \
         EXDEV, redirects found in layers are followed; nofollow: nor are these, their directories \
         fail with EPERM",
    ),
    opt(
        Storage,
        "index",
        "on|off",
        "on (default): a lower file with several names stays one file when it is copied up; off: each \
         name is a file of its own",
    ),
    opt(
        Storage,
        "userxattr",
        "",
        "write the marks of the format as user.overlay.* also where trusted.overlay.* could be \
         (default: where it cannot)",
    ),
    opt(
        Storage,
        "uuid",
        "on|off|auto|null",
        "off or null: what was recorded of the layers stays valid when their filesystem got another \
         UUID",
    ),
    opt(Mount, "allow_other", "", "other users may look in (always so for root)"),
    opt(Mount, "noallow_other", "", "only the user who mounts may look in"),
    opt(Mount, "fsname", "NAME", "first column of the table of mounts"),
    opt(Mount, "writeback", "0|1", "0: written data reaches the upper at once, not when it suits"),
    opt(Mount, "noxattrs", "[=0|1]", "no extended attributes: asking for one fails, none is set"),
    opt(Mount, "remount", "", "change the flags of a mount that is there"),
    opt(Mount, "context", "LABEL", "SELinux: label of every file"),
    opt(Mount, "fscontext", "LABEL", "SELinux: label of the filesystem"),
    opt(Mount, "defcontext", "LABEL", "SELinux: label of files that have none"),
    opt(Mount, "rootcontext", "LABEL", "SELinux: label of the root directory"),
    opt(Accepted, "default_permissions", "", "always on"),
    opt(Accepted, "debug", "", "nothing is traced"),
    opt(Accepted, "subtype", "[=NAME]", "the type is fuse.cowlfs"),
    opt(Accepted, "auto_unmount", "", "the mount ends with the program's signals"),
    opt(Accepted, "fast_ino", "[=0|1]", "inode numbers cost nothing"),
    opt(Accepted, "fast_ino_check", "[=0|1]", "the same"),
    opt(Accepted, "threaded", "[=0|1]", "threads come and go with the load"),
    opt(Accepted, "clone_fd", "", "tuning of libfuse"),
    opt(Accepted, "max_threads", "[=N]", "the same"),
    opt(Accepted, "max_idle_threads", "[=N]", "the same"),
    opt(Accepted, "max_write", "[=N]", "the same"),
    opt(Accepted, "splice_read", "", "the same"),
    opt(Accepted, "splice_write", "", "the same"),
    opt(Accepted, "splice_move", "", "the same"),
    opt(Accepted, "kernel_cache", "", "the kernel keeps what it reads in any case"),
    opt(Accepted, "user_id", "[=N]", "comes back from the table of mounts"),
    opt(Accepted, "group_id", "[=N]", "the same"),
    opt(Accepted, "rootmode", "[=N]", "the same"),
    opt(Accepted, "defaults", "", "of mount(8)"),
    opt(Accepted, "auto", "", "the same"),
    opt(Accepted, "noauto", "", "the same"),
    opt(Accepted, "nofail", "", "the same"),
    opt(Accepted, "user", "[=NAME]", "the same"),
    opt(Accepted, "nouser", "", "the same"),
    opt(Accepted, "users", "", "the same"),
    opt(Accepted, "owner", "", "the same"),
    opt(Accepted, "group", "", "the same"),
    opt(Accepted, "_netdev", "", "the same"),
    opt(Refused, "allow_root", "", "use allow_other"),
    opt(Refused, "plugins", "[=LIST]", "layers are directories; none can be made up by a plugin"),
    opt(
        Refused,
        "nfs_export",
        "on|off",
        "a mount of FUSE with node numbers that end with it cannot be exported; off is accepted",
    ),
    opt(
        Refused,
        "verity",
        "on|off|require",
        "digests of fs-verity are not checked, and a mount without the check would be taken for one \
         with it; off is accepted",
    ),
];

/// mount(8) flags: name, bits to set, bits to clear.
pub const FLAGS: &[(&str, u64, u64)] = &[
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

/// The option of this name.
pub fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|o| o.name == name)
}

fn flag_names() -> String {
    FLAGS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(" ")
}

/// Breaks `text` into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.into());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Columns that the names take in `--help`.
const NAMES: usize = 30;
/// Columns that the explanations take.
const TEXT: usize = 68;

fn row(out: &mut String, name: &str, help: &str) {
    let mut lines = wrap(help, TEXT).into_iter();
    let first = if name.chars().count() + 2 < NAMES { lines.next() } else { None };
    let head = format!("  {name}");
    let pad = NAMES.saturating_sub(head.chars().count());
    push(out, format_args!("{head}{}{}", " ".repeat(pad), first.unwrap_or_default()));
    for line in lines {
        push(out, format_args!("{}{line}", " ".repeat(NAMES)));
    }
}

/// Adds a line; trailing blanks are left out.
fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    let text = line.to_string();
    out.push_str(text.trim_end());
    out.push('\n');
}

/// The options as `--help` lists them.
pub fn help() -> String {
    let mut out = String::new();
    for (part, heading) in PARTS {
        push(&mut out, format_args!("\n{heading}:"));
        let of_part: Vec<&Opt> = OPTIONS.iter().filter(|o| o.part == *part).collect();
        if *part == Accepted {
            let names: Vec<&str> = of_part.iter().map(|o| o.name).collect();
            for line in wrap(&names.join(" "), NAMES + TEXT - 2) {
                push(&mut out, format_args!("  {line}"));
            }
            continue;
        }
        for o in of_part {
            row(&mut out, &o.usage(), o.help);
        }
        if *part == Mount {
            row(&mut out, "ro nosuid nodev …", &format!("as mount(8): {}", flag_names()));
        }
    }
    out
}

/// The options as a table of Markdown: `docs/options.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Options of cowlfs\n\nMade from `src/options/list.rs`; a test keeps it so. They are given \
         with `-o`, separated by commas; a backslash takes the next character literally.\n",
    );
    for (part, heading) in PARTS {
        push(&mut out, format_args!("\n## {heading}\n\n| option | what it does |\n|---|---|"));
        for o in OPTIONS.iter().filter(|o| o.part == *part) {
            push(&mut out, format_args!("| `{}` | {} |", o.usage().replace('|', "\\|"), o.help));
        }
        if *part == Mount {
            push(&mut out, format_args!("| `{}` | as mount(8) |", flag_names()));
        }
    }
    out
}

/// The manual page, section 8, in man(7)'s language.
pub fn man(version: &str) -> String {
    let roff = |text: &str| text.replace('\\', "\\e").replace('-', "\\-");
    let mut out = String::new();
    let head = [
        &*format!(".TH COWLFS 8 \"\" \"cowlfs {version}\""),
        ".SH NAME",
        "cowlfs \\- mount a union of directories, copying on write",
        ".SH SYNOPSIS",
        ".B cowlfs",
        "[\\-f] [\\-\\-ready\\-fd FD] \\-o OPTION[,OPTION...] [SOURCE] MOUNTPOINT",
        ".SH DESCRIPTION",
        "The directories given as lowerdir are shown as one, with everything that is changed kept in",
        "upperdir. A lower is never written. The upper is in the format of the kernel's overlayfs.",
        ".SH OPTIONS",
        "Options are separated by commas; a backslash takes the next character literally.",
    ];
    for line in head {
        push(&mut out, format_args!("{line}"));
    }
    for (part, heading) in PARTS {
        push(&mut out, format_args!(".SS {heading}"));
        for o in OPTIONS.iter().filter(|o| o.part == *part) {
            push(&mut out, format_args!(".TP\n.B {}\n{}", roff(&o.usage()), roff(o.help)));
        }
        if *part == Mount {
            push(&mut out, format_args!(".TP\n.B {}\nas mount(8)", roff(&flag_names())));
        }
    }
    push(&mut out, format_args!(".SH SEE ALSO\nmount(8), fusermount3(1), user_namespaces(7)"));
    out
}

/// Lists names for an error message.
pub(super) fn choices(of: &Opt) -> String {
    let mut out = String::new();
    for (i, choice) in of.choices().into_iter().flatten().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        let _infallible = write!(out, "{separator}{choice}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_one_is_listed() {
        let (help, man, markdown) = (help(), man("1"), markdown());
        for (i, o) in OPTIONS.iter().enumerate() {
            let same = |other: &Opt| other.name == o.name;
            assert!(!OPTIONS.iter().skip(i + 1).any(same), "{} twice", o.name);
            assert!(!FLAGS.iter().any(|(flag, ..)| *flag == o.name), "{} is a flag", o.name);
            assert!(help.contains(o.name) && markdown.contains(o.name), "{}", o.name);
            assert!(man.contains(&o.name.replace('-', "\\-")), "{}", o.name);
        }
        assert!(help.lines().all(|l| l.chars().count() <= NAMES + TEXT), "{help}");
    }

    #[test]
    fn the_document_is_made_from_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/options.md");
        if std::env::var_os("COWL_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == markdown(),
            "docs/options.md is old: run this test with COWL_WRITE_DOCS=1"
        );
    }
}
