//! As much HTTP as the tests speak themselves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request, or an answer: its first line, headers and content.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub first: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).expect("a status").parse().expect("a number")
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.first.split(' ').next().expect("a method")
    }

    /// The path of a request.
    pub fn path(&self) -> &str {
        self.first.split(' ').nth(1).expect("a path")
    }

    /// Reads one; `None` when the other side has closed before it began.
    pub fn read(stream: &mut BufReader<TcpStream>, head: bool) -> Option<Message> {
        let mut message = Message::default();
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        message.first = line.trim_end().to_owned();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 || line.trim_end().is_empty() {
                break;
            }
            let (name, value) = line.trim_end().split_once(':').expect("a header");
            message.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        if head {
            return Some(message);
        }
        if message.header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                stream.read_line(&mut size).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk).ok()?;
                message.body.extend(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = message.header("content-length") {
            message.body = vec![0; length.parse().expect("a length")];
            stream.read_exact(&mut message.body).ok()?;
        }
        Some(message)
    }

    /// Its bytes, without headers about the connection.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            let about_connection = ["connection", "transfer-encoding", "content-length"];
            if !about_connection.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                text += &format!("{name}: {value}\r\n");
            }
        }
        // What HEAD would have had.
        let length = match self.header("content-length") {
            Some(length) if self.body.is_empty() => length.to_owned(),
            _ => self.body.len().to_string(),
        };
        text += &format!("content-length: {length}\r\nconnection: close\r\n\r\n");
        [text.into_bytes(), self.body.clone()].concat()
    }
}

/// Sends a request and waits for the answer.
pub fn send(address: SocketAddr, request: &Message) -> Message {
    let mut stream = TcpStream::connect(address).expect("connect to the registry");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(&request.bytes()).expect("send a request");
    Message::read(&mut BufReader::new(stream), request.method() == "HEAD").expect("an answer")
}

/// The same from its parts.
pub fn ask(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Message {
    let mut headers: Vec<(String, String)> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    headers.push(("host".to_owned(), address.to_string()));
    send(address, &Message { first: format!("{line} HTTP/1.1"), headers, body: body.to_vec() })
}
