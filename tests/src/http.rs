//! A small blocking HTTP/1.1 client that says whether a lost request can have arrived.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than a node's own limit for writes.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body for a person.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum HttpError {
    /// No connection: nothing was sent.
    NotSent(io::Error),
    /// Sent, at least in part.
    Lost(io::Error),
}

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(e) => write!(f, "no connection: {e}"),
            Self::Lost(e) => write!(f, "the answer was lost: {e}"),
        }
    }
}

/// A client of one server; keeps its connection.
#[derive(Debug)]
pub struct Http {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    answer_limit: Duration,
}

impl Http {
    /// Connects at the first call.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, answer_limit: ANSWER_LIMIT }
    }

    /// Waits no longer than this for an answer.
    #[must_use]
    pub fn patience(mut self, limit: Duration) -> Self {
        self.answer_limit = limit;
        self
    }

    /// One request.
    ///
    /// # Errors
    /// There is no answer; the next call connects anew.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, HttpError> {
        let kept = self.connection.is_some();
        match self.once(method, path, headers, body) {
            // The server may have closed a kept connection; asking twice is harmless here.
            Err(HttpError::Lost(_)) if kept && method == "GET" => self.once(method, path, headers, body),
            result => result,
        }
    }

    fn once(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, HttpError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().map_err(HttpError::NotSent)?,
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        // A server may refuse before it has read everything, and close.
        let sent = connection.get_mut().write_all(&bytes);
        let answer = match (read_answer(&mut connection), sent) {
            (Ok(answer), _) => answer,
            (Err(_), Err(e)) | (Err(e), Ok(())) => return Err(HttpError::Lost(e)),
        };
        if answer.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.answer_limit))?;
        stream.set_write_timeout(Some(self.answer_limit))?;
        Ok(BufReader::new(stream))
    }
}

/// Reads one answer.
///
/// # Errors
/// The connection ended, or this is no HTTP.
pub fn read_answer(from: &mut impl BufRead) -> io::Result<Answer> {
    let line = read_line(from)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| no_http(&line))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| no_http(&line))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = read_chunks(from)?;
    } else {
        let length = answer.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        answer.body = vec![0; length];
        from.read_exact(&mut answer.body)?;
    }
    Ok(answer)
}

fn read_chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(from)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(|_| no_http(&line))?;
        from.by_ref().take(length as u64).read_to_end(&mut body)?;
        read_line(from)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn no_http(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_a_length_and_in_chunks_are_read() {
        let plain = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabcrest";
        let answer = read_answer(&mut &plain[..]).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (404, &b"abc"[..]));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(read_answer(&mut &chunked[..]).unwrap().body, b"abc");
        assert!(read_answer(&mut &b"garbage\r\n\r\n"[..]).is_err());
        assert!(read_answer(&mut &b""[..]).is_err());
    }
}
