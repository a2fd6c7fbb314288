//! Which hierarchies of control groups this machine has, and where this process may make groups.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::container::config::Limits;
use crate::userns;

/// One hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Whether it is version 2's.
    pub unified: bool,
    /// Its controllers.
    pub controllers: Vec<String>,
    /// The group below which ours are made.
    pub base: PathBuf,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In the order of their mounts.
    pub hierarchies: Vec<Hierarchy>,
}

/// Controllers of version 1 that containers have use for.
const USED: [&str; 8] =
    ["memory", "cpu", "cpuacct", "cpuset", "pids", "freezer", "devices", "blkio"];

/// Undoes the escapes of mountinfo.
fn plain(field: &str) -> PathBuf {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into()
}

impl Layout {
    /// Looks at the mounts of this process.
    pub fn detect() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let root = geteuid().is_root() && !userns::inside();
        Self::parse(&mounts, &own, root)
    }

    fn parse(mounts: &str, own: &str, root: bool) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let mut after = after.split(' ');
            let (kind, options) = (after.next().unwrap_or_default(), after.nth(1));
            let Some(point) = before.split(' ').nth(4).map(plain) else { continue };
            let (unified, controllers) = match kind {
                "cgroup2" => (true, available(&point)),
                "cgroup" => {
                    let named = options.unwrap_or_default().split(',');
                    let used: Vec<String> =
                        named.filter(|name| USED.contains(name)).map(str::to_owned).collect();
                    (false, used)
                }
                _ => continue,
            };
            if !unified && controllers.is_empty() {
                continue; // systemd's own, or one that containers have no use for
            }
            if hierarchies.iter().any(|h| h.unified == unified && h.controllers == controllers) {
                continue; // mounted twice
            }
            let base = if root { point } else { point.join(delegated(own, unified, &controllers)) };
            hierarchies.push(Hierarchy { unified, controllers, base });
        }
        Self { hierarchies }
    }
}

fn available(point: &Path) -> Vec<String> {
    let text = fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The group that an ordinary user may have been given: the one that systemd gives to a user's
/// manager, else this process's own.
fn delegated(own: &str, unified: bool, controllers: &[String]) -> PathBuf {
    let line = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = if unified {
            names.is_empty()
        } else {
            names.split(',').any(|name| controllers.iter().any(|known| known == name))
        };
        found.then_some(path)
    });
    let mut place = PathBuf::new();
    for part in Path::new(line.unwrap_or("/")).components().skip(1) {
        place.push(part);
        let name = part.as_os_str().to_string_lossy();
        if name.starts_with("user@") && name.ends_with(".service") {
            break;
        }
    }
    place
}

impl Hierarchy {
    /// Whether it has a controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Whether a container needs a group in it: a cpuset costs each change of its group, and is
    /// made only when processors or memory nodes were named.
    pub fn wanted(&self, limits: &Limits) -> bool {
        let set = limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some();
        self.unified || set || self.controllers.iter().any(|name| name != "cpuset")
    }

    /// Makes a group and those above it, ready for processes; false where that is not allowed.
    pub fn make(&self, place: &Path) -> bool {
        let Ok(below) = place.strip_prefix(&self.base) else { return false };
        let mut here = self.base.clone();
        for part in below.components() {
            if self.unified {
                // One by one: a controller that cannot be had must not take the others along.
                for name in &self.controllers {
                    super::write(&here.join("cgroup.subtree_control"), &format!("+{name}")).ok();
                }
            }
            let above = here.clone();
            here.push(part);
            match fs::create_dir(&here) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(_) => return false,
            }
            if !self.unified && self.has("cpuset") {
                inherit(&above, &here);
            }
        }
        true
    }
}

/// A version 1 cpuset has no processors until it is given some.
fn inherit(above: &Path, here: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let read = |dir: &Path| fs::read_to_string(dir.join(file)).unwrap_or_default();
        if read(here).trim().is_empty() {
            super::write(&here.join(file), read(above).trim()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 1 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:29 / /nowhere/with\\040space rw - cgroup2 cgroup2 rw
";

    #[test]
    fn hierarchies_are_found() {
        let layout = Layout::parse(HYBRID, "", true);
        let kinds: Vec<_> =
            layout.hierarchies.iter().map(|h| (h.unified, h.base.clone())).collect();
        assert_eq!(
            kinds,
            [
                (false, "/sys/fs/cgroup/cpu,cpuacct".into()),
                (false, "/sys/fs/cgroup/memory".into()),
                (true, "/nowhere/with space".into()),
            ]
        );
        assert!(layout.hierarchies[0].has("cpuacct"));
        assert_eq!(Layout::parse("", "", true), Layout::default());
    }

    #[test]
    fn users_get_what_was_delegated_to_them() {
        let own = "4:memory:/a/b\n0::/user.slice/user-1.slice/user@1.service/app.slice/x.scope\n";
        let layout = Layout::parse(HYBRID, own, false);
        let bases: Vec<_> = layout.hierarchies.iter().map(|h| h.base.clone()).collect();
        assert_eq!(bases[1], Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(
            bases[2],
            Path::new("/nowhere/with space/user.slice/user-1.slice/user@1.service")
        );
    }
}
