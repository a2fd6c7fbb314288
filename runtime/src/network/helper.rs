//! The process that serves one container's network: names, and connections from this machine to
//! published ports. It has nothing open but its sockets, and ends with the monitor.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::proxy::Listening;
use super::responder::Responder;
use crate::sys;
use crate::sys::process::{Child, Side};

/// What it does.
#[derive(Debug, Default)]
pub struct Duties {
    /// Answers about names, on these sockets.
    pub names: Option<(Responder, UdpSocket, TcpListener)>,
    /// Passes connections on.
    pub ports: Vec<(Listening, SocketAddr)>,
}

impl Duties {
    /// Whether there is anything to do.
    pub fn any(&self) -> bool {
        self.names.is_some() || !self.ports.is_empty()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let names = self
            .names
            .iter()
            .flat_map(|(_, datagrams, connections)| [datagrams.as_fd(), connections.as_fd()]);
        let ports = self.ports.iter().map(|(listening, _)| match listening {
            Listening::Stream(socket) => socket.as_fd(),
            Listening::Datagram(socket) => socket.as_fd(),
        });
        names.chain(ports).collect()
    }
}

/// Starts it. The caller has one thread.
pub fn start(duties: Duties) -> nix::Result<Child> {
    match sys::process::fork()? {
        Side::Parent(child) => Ok(child),
        Side::Child => {
            let prepared = prctl::set_pdeathsig(Signal::SIGKILL)
                .and_then(|()| sys::descriptor::keep_only(&duties.fds(), 0))
                .and_then(|()| sys::descriptor::default_signals())
                .and_then(|()| prctl::set_name(c"cowl-network"));
            if prepared.is_err() {
                sys::process::exit(1);
            }
            serve(duties);
            sys::process::exit(0)
        }
    }
}

/// Works until it is killed.
fn serve(duties: Duties) {
    let mut threads = Vec::new();
    for (listening, to) in duties.ports {
        threads.push(std::thread::spawn(move || listening.serve(to)));
    }
    if let Some((responder, datagrams, connections)) = duties.names {
        let responder = Arc::new(responder);
        let other = Arc::clone(&responder);
        threads.push(std::thread::spawn(move || other.connections(&connections)));
        responder.datagrams(datagrams);
    }
    for thread in threads {
        // None of them ends but by a panic, which it has said itself.
        thread.join().ok();
    }
}
