//! A server in front of a registry that does what the test says with each request.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::http::{self, Message};

/// What becomes of a request.
pub enum Deed {
    /// The registry answers.
    Pass,
    /// The registry answers, but only so many bytes of the content arrive.
    Cut(usize),
    /// The registry never sees it.
    Answer(Message),
}

/// A running server. Ends with the test.
pub struct Front {
    /// Where it listens.
    pub address: SocketAddr,
    /// What was asked, in order.
    pub asked: Arc<Mutex<Vec<Message>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Starts one in front of `registry`.
    pub fn start(
        registry: SocketAddr,
        rule: impl Fn(&Message) -> Deed + Send + Sync + 'static,
    ) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (log, end, rule) = (Arc::clone(&asked), Arc::clone(&ended), Arc::new(rule));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (log, rule) = (Arc::clone(&log), Arc::clone(&rule));
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || serve(stream, registry, &log, &*rule));
            }
        });
        Front { address, asked, ended, thread: Some(thread) }
    }

    /// A name in it.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// How many requests were like this.
    pub fn count(&self, like: impl Fn(&Message) -> bool) -> usize {
        self.asked.lock().expect("the log").iter().filter(|message| like(message)).count()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

/// One request of one connection; every answer closes it.
fn serve(
    stream: TcpStream,
    registry: SocketAddr,
    log: &Mutex<Vec<Message>>,
    rule: &dyn Fn(&Message) -> Deed,
) {
    let mut reader = BufReader::new(stream);
    let Some(request) = Message::read(&mut reader, false) else { return };
    log.lock().expect("the log").push(request.clone());
    let deed = rule(&request);
    let answer = match deed {
        Deed::Answer(answer) => answer.bytes(),
        Deed::Pass => http::send(registry, &request).bytes(),
        Deed::Cut(length) => {
            let answer = http::send(registry, &request);
            let mut bytes = answer.bytes();
            bytes.truncate(bytes.len() - answer.body.len() + length.min(answer.body.len()));
            bytes
        }
    };
    // The other side may have gone.
    let _sent = reader.get_mut().write_all(&answer);
}
