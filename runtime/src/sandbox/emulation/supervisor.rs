//! The supervisor's loop: it takes calls from any number of listeners and answers them.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::caller::Caller;
use super::ids::Ids;
use super::owner;
use crate::sys;
use crate::sys::listener::{self, Answer, Call};

/// Runs until the monitor, or whoever started this, is gone.
pub fn run(channel: &OwnedFd) -> nix::Result<()> {
    let parent = nix::unistd::getppid();
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() != parent {
        return Ok(());
    }
    prctl::set_name(c"cowl-ids")?;
    sys::descriptor::close_all_but(channel.as_fd())?;
    let proc = Caller::open_proc()?;
    let mut ids = Ids::default();
    let mut listeners: Vec<OwnedFd> = Vec::new();
    loop {
        let mut fds: Vec<_> = std::iter::once(channel)
            .chain(&listeners)
            .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let ready: Vec<_> =
            fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        let mut ready = ready.into_iter();
        let more = ready.next().is_some_and(|events| !events.is_empty());
        let mut kept = Vec::with_capacity(listeners.len() + 1);
        for (listener, events) in listeners.drain(..).zip(ready) {
            if events.contains(PollFlags::POLLIN) {
                attend(&listener, &proc, &mut ids);
            }
            // POLLHUP: nobody is left whose calls would come here.
            if !events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
                kept.push(listener);
            }
        }
        listeners = kept;
        if more {
            match sys::descriptor::receive(channel.as_fd())? {
                Some((_, fds)) => listeners.extend(fds),
                None => return Ok(()),
            }
        }
    }
}

fn attend(listener: &OwnedFd, proc: &OwnedFd, ids: &mut Ids) {
    let Ok(Some(call)) = listener::receive(listener.as_fd()) else { return };
    let caller = Caller { proc, listener, call };
    let answer = decide(&caller, ids).unwrap_or_else(Answer::Error);
    // What cannot be answered is a caller that was killed, or a listener that goes.
    listener::answer(listener.as_fd(), call.id, answer).ok();
}

fn decide(caller: &Caller<'_>, ids: &mut Ids) -> nix::Result<Answer> {
    let Call { number, .. } = caller.call;
    if owner::is_change(number) { owner::change(caller, ids) } else { ids.answer(caller) }
}
