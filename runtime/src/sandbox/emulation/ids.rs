//! Who a process believes to be.
//!
//! Kept by process (threads share it, as POSIX has it). A new process is what its parent was when it
//! is first asked about; nothing is kept of processes that are root in every respect.

use std::collections::HashMap;

use nix::errno::Errno;

use super::caller::Caller;
use crate::sys::listener::Answer;

/// "Leave it as it is", in calls that take several ids.
pub const KEEP: u32 = u32::MAX;

/// How many generations are looked through for a parent that is known.
const ANCESTORS: usize = 64;

/// Above so many processes those that have ended are forgotten.
const MANY: usize = 1024;

/// Real, effective and saved id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Triple {
    real: u32,
    effective: u32,
    saved: u32,
}

/// Which of them a call changes.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// setuid(2).
    One(u32),
    /// setreuid(2).
    Two(u32, u32),
    /// setresuid(2).
    Three(u32, u32, u32),
}

impl Triple {
    fn holds(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// What it becomes for a process that is privileged or not (credentials(7)).
    fn changed(self, change: Change, privileged: bool) -> nix::Result<Triple> {
        let or = |new: u32, old: u32| if new == KEEP { old } else { new };
        let may = |id: u32| id == KEEP || privileged || self.holds(id);
        match change {
            Change::One(KEEP) => Err(Errno::EINVAL),
            Change::One(id) if privileged => Ok(Triple { real: id, effective: id, saved: id }),
            Change::One(id) if id == self.real || id == self.saved => {
                Ok(Triple { effective: id, ..self })
            }
            Change::Two(real, effective) if may(real) && may(effective) => {
                let now = Triple {
                    real: or(real, self.real),
                    effective: or(effective, self.effective),
                    ..self
                };
                // setreuid(2): the saved id follows when the real one is set, or another effective one.
                let follows = real != KEEP || (effective != KEEP && now.effective != self.real);
                Ok(if follows { Triple { saved: now.effective, ..now } } else { now })
            }
            Change::Three(real, effective, saved) if may(real) && may(effective) && may(saved) => {
                Ok(Triple {
                    real: or(real, self.real),
                    effective: or(effective, self.effective),
                    saved: or(saved, self.saved),
                })
            }
            _ => Err(Errno::EPERM),
        }
    }
}

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Process {
    users: Triple,
    groups: Triple,
}

/// All processes that are not simply root.
#[derive(Debug, Default)]
pub struct Ids {
    processes: HashMap<i32, Process>,
}

impl Ids {
    /// Whether the kernel has this id: root, or none.
    pub fn known(id: u32) -> bool {
        id == 0 || id == KEEP
    }

    /// Whether the caller is root to itself.
    pub fn is_root(&mut self, caller: &Caller<'_>) -> bool {
        self.of(caller).users.effective == 0
    }

    fn of(&mut self, caller: &Caller<'_>) -> Process {
        if self.processes.is_empty() {
            return Process::default();
        }
        let Some(own) = caller.status(None, "Tgid") else { return Process::default() };
        let mut process = own;
        for _ in 0..ANCESTORS {
            if let Some(found) = self.processes.get(&process).copied() {
                self.set(caller, own, found);
                return found;
            }
            match caller.status(Some(process), "PPid") {
                Some(parent) if parent > 0 => process = parent,
                _ => break,
            }
        }
        Process::default()
    }

    fn set(&mut self, caller: &Caller<'_>, process: i32, now: Process) {
        if self.processes.len() >= MANY {
            self.processes.retain(|process, _| caller.status(Some(*process), "Tgid").is_some());
        }
        self.processes.insert(process, now);
    }

    /// Answers a call about the caller's own ids.
    pub fn answer(&mut self, caller: &Caller<'_>) -> nix::Result<Answer> {
        let now = self.of(caller);
        let id = |n| caller.number(n);
        let value = |id: u32| Ok(Answer::Value(i64::from(id)));
        let (users, change) = match caller.call.number {
            libc::SYS_setuid => (true, Change::One(id(0))),
            libc::SYS_setgid => (false, Change::One(id(0))),
            libc::SYS_setreuid => (true, Change::Two(id(0), id(1))),
            libc::SYS_setregid => (false, Change::Two(id(0), id(1))),
            libc::SYS_setresuid => (true, Change::Three(id(0), id(1), id(2))),
            libc::SYS_setresgid => (false, Change::Three(id(0), id(1), id(2))),
            // No namespace of one id may set groups. Also after the user was given up: see below.
            libc::SYS_setgroups => return value(0),
            // These tell the id that was; nothing is decided by it here.
            libc::SYS_setfsuid => return value(now.users.effective),
            libc::SYS_setfsgid => return value(now.groups.effective),
            // Nobody has changed: the kernel knows.
            _ if now == Process::default() => return Ok(Answer::Continue),
            libc::SYS_getuid => return value(now.users.real),
            libc::SYS_geteuid => return value(now.users.effective),
            libc::SYS_getgid => return value(now.groups.real),
            libc::SYS_getegid => return value(now.groups.effective),
            number => {
                let ids = if number == libc::SYS_getresuid { now.users } else { now.groups };
                caller.give(&[ids.real, ids.effective, ids.saved])?;
                return value(0);
            }
        };
        // Programs that give up their users first keep the capability for the groups (setpriv does).
        let untouched = !users && now.groups == Triple::default();
        let privileged = now.users.effective == 0 || untouched;
        let mut next = now;
        let which = if users { &mut next.users } else { &mut next.groups };
        *which = which.changed(change, privileged)?;
        if next == Process::default() && now == next {
            return Ok(Answer::Continue);
        }
        let process = caller.status(None, "Tgid").ok_or(Errno::ESRCH)?;
        self.set(caller, process, next);
        value(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Triple = Triple { real: 0, effective: 0, saved: 0 };

    fn triple(real: u32, effective: u32, saved: u32) -> Triple {
        Triple { real, effective, saved }
    }

    #[test]
    fn root_becomes_anybody_and_others_what_they_were() {
        let user = ROOT.changed(Change::One(5), true).unwrap();
        assert_eq!(user, triple(5, 5, 5));
        assert_eq!(user.changed(Change::One(0), false), Err(Errno::EPERM));
        assert_eq!(user.changed(Change::Three(KEEP, 0, KEEP), false), Err(Errno::EPERM));
        assert_eq!(user.changed(Change::Three(5, KEEP, 5), false), Ok(user));

        // seteuid(2), there and back.
        let away = ROOT.changed(Change::Three(KEEP, 7, KEEP), true).unwrap();
        assert_eq!(away, triple(0, 7, 0));
        assert_eq!(away.changed(Change::One(0), false), Ok(ROOT));
        assert_eq!(away.changed(Change::Three(KEEP, 0, KEEP), false), Ok(ROOT));
        assert_eq!(ROOT.changed(Change::One(KEEP), true), Err(Errno::EINVAL));
    }

    #[test]
    fn two_ids_move_the_saved_one_along() {
        assert_eq!(ROOT.changed(Change::Two(8, 8), true), Ok(triple(8, 8, 8)));
        assert_eq!(ROOT.changed(Change::Two(KEEP, 8), true), Ok(triple(0, 8, 8)));
        assert_eq!(triple(3, 4, 4).changed(Change::Two(4, 3), false), Ok(triple(4, 3, 3)));
        assert_eq!(triple(3, 4, 4).changed(Change::Two(9, KEEP), false), Err(Errno::EPERM));
    }
}
