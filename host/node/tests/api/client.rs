//! The smallest HTTP client: one kept connection, one call after the other.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {} {text}", self.status))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Asserts the status; shows the answer where it is another one.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// Asserts a refusal.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.is(status);
        let body = answer.json();
        assert_eq!(body["code"], code, "{body}");
        let applied = if status == 504 { "unknown" } else { "no" };
        assert_eq!(body["applied"], applied, "{body}");
        answer
    }
}

pub(crate) struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
    pub(crate) headers: Vec<(String, String)>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: connect(address), headers: Vec::new() }
    }

    pub(crate) fn with(address: SocketAddr, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Self { headers, ..Self::new(address) }
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.call("GET", path, &[], b"")
    }

    pub(crate) fn put(&mut self, path: &str, body: &[u8]) -> Answer {
        self.call("PUT", path, &[], body)
    }

    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        self.call("POST", path, &[], body)
    }

    pub(crate) fn delete(&mut self, path: &str) -> Answer {
        self.call("DELETE", path, &[], b"")
    }

    /// Sends bytes as they are, on a connection of their own.
    pub(crate) fn send(&self, bytes: &[u8]) -> BufReader<TcpStream> {
        let mut stream = connect(self.address);
        stream.get_mut().write_all(bytes).expect("sent");
        stream
    }

    /// The answer to bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Answer {
        read_answer(&mut self.send(bytes), false)
    }

    pub(crate) fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: node\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let whole = [head.as_bytes(), body].concat();
        // A refusal may come before the body is taken.
        let _ = self.stream.get_mut().write_all(&whole);
        let answer = read_answer(&mut self.stream, method == "HEAD");
        if answer.header("connection") == Some("close") || answer.status >= 400 {
            self.stream = connect(self.address);
        }
        answer
    }
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    BufReader::new(stream)
}

pub(crate) fn read_answer(stream: &mut impl BufRead, no_body: bool) -> Answer {
    let mut line = String::new();
    stream.read_line(&mut line).expect("an answer");
    let status =
        line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {line:?}"));
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length =
        headers.iter().find(|(n, _)| n == "content-length").map_or(0, |(_, v)| v.parse().expect("a length"));
    let mut body = vec![0; if no_body { 0 } else { length }];
    stream.read_exact(&mut body).expect("a body");
    Answer { status, headers, body }
}
