//! One kept-open HTTP/1.1 connection.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::client::target::Target;

/// Longest header of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body of an answer, in bytes: over the largest module.
const BODY_BYTES_MAX: usize = 512 << 20;
const HEADERS_MAX: usize = 64;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum HttpError {
    /// There is no connection: the request was not sent.
    #[error(
        "cannot reach {url}: {source}. Is the node running? Start it with `moult node --config FILE`, or a whole cluster with `moult devnet`"
    )]
    Connect {
        /// Of the API.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke: whether the request was carried out is not known.
    #[error("the connection to {url} broke: {source}; the node may have stopped, see its log")]
    Broken {
        /// Of the API.
        url: String,
        /// How.
        source: io::Error,
    },
    /// It speaks something else.
    #[error("{url} does not answer as a node would: {problem}. Is it the address of the API (not of p2p)?")]
    Protocol {
        /// Of the API.
        url: String,
        /// What it does.
        problem: String,
    },
}

/// What is asked.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// Path and query, encoded.
    pub(crate) path: &'a str,
    /// Names and values, without line breaks.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection. After an error, or a call that was given up, it must be dropped.
pub(crate) struct Connection {
    url: String,
    authority: String,
    stream: Box<dyn Stream>,
    out: Vec<u8>,
    /// Read, and not yet taken.
    input: Vec<u8>,
    body: Vec<u8>,
    closing: bool,
}

/// How the length of a body is known.
enum Length {
    Known(usize),
    Chunked,
}

struct Head {
    status: u16,
    bytes: usize,
    length: Length,
    close: bool,
}

/// Connects, and names the protocol where there is TLS.
///
/// # Errors
/// There is no connection.
pub(crate) async fn connect(target: &Target, protocol: &[u8]) -> Result<Box<dyn Stream>, HttpError> {
    let wrong = |source| HttpError::Connect { url: target.url.clone(), source };
    let tcp = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(wrong)?;
    tcp.set_nodelay(true).map_err(wrong)?;
    let Some(config) = &target.tls else { return Ok(Box::new(tcp)) };
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from(target.host.clone()).map_err(|e| wrong(io::Error::other(e)))?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(wrong)?))
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`HttpError::Connect`].
    pub(crate) async fn open(target: &Target) -> Result<Self, HttpError> {
        let stream = connect(target, b"http/1.1").await?;
        let authority = target.authority();
        let (out, input, body) = (Vec::with_capacity(1024), Vec::with_capacity(4096), Vec::new());
        Ok(Self { url: target.url.clone(), authority, stream, out, input, body, closing: false })
    }

    /// Whether the node wants no further request here.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Sends a request and waits for the answer's status; its body is then in
    /// [`Connection::body`].
    ///
    /// # Errors
    /// [`HttpError::Broken`], [`HttpError::Protocol`].
    pub(crate) async fn call(&mut self, request: &Request<'_>) -> Result<u16, HttpError> {
        self.write_request(request).await.map_err(|source| self.broken(source))?;
        let head = loop {
            if let Some(head) = self.parse_head()? {
                self.input.drain(..head.bytes);
                // 1xx is no answer yet.
                if head.status >= 200 {
                    break head;
                }
            } else {
                if self.input.len() > HEAD_BYTES_MAX {
                    return Err(self.protocol("its header is too long"));
                }
                self.read_some().await?;
            }
        };
        self.closing = head.close;
        match head.length {
            Length::Known(length) => self.read_body(length).await?,
            Length::Chunked => self.read_chunks().await?,
        }
        Ok(head.status)
    }

    async fn write_request(&mut self, request: &Request<'_>) -> io::Result<()> {
        use io::Write as _;
        self.out.clear();
        let Request { method, path, headers, body } = request;
        write!(
            self.out,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n",
            self.authority,
            body.len()
        )?;
        for (name, value) in *headers {
            if value.contains(['\r', '\n', '\0']) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("the value of {name} breaks the line"),
                ));
            }
            write!(self.out, "{name}: {value}\r\n")?;
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body);
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await
    }

    fn parse_head(&self) -> Result<Option<Head>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let bytes = match response.parse(&self.input) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(self.protocol(&error.to_string())),
        };
        let mut head =
            Head { status: response.code.unwrap_or(0), bytes, length: Length::Known(0), close: false };
        for header in response.headers.iter() {
            let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().ok().filter(|n| *n <= BODY_BYTES_MAX);
                head.length =
                    Length::Known(length.ok_or_else(|| self.protocol("its length makes no sense"))?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.length = Length::Chunked;
            } else if header.name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            }
        }
        Ok(Some(head))
    }

    async fn read_body(&mut self, length: usize) -> Result<(), HttpError> {
        self.body.clear();
        let ready = length.min(self.input.len());
        self.body.extend(self.input.drain(..ready));
        if ready < length {
            self.body.resize(length, 0);
            let rest = &mut self.body[ready..];
            if let Err(source) = self.stream.read_exact(rest).await {
                return Err(self.broken(source));
            }
        }
        Ok(())
    }

    async fn read_chunks(&mut self) -> Result<(), HttpError> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| self.protocol("a chunk has no size"))?;
            if size == 0 {
                break;
            }
            if body.len().saturating_add(size) > BODY_BYTES_MAX {
                return Err(self.protocol("the body is too long"));
            }
            self.read_body(size).await?;
            body.extend_from_slice(&self.body);
            self.read_line().await?;
        }
        // Trailers, up to the empty line.
        while !self.read_line().await?.is_empty() {}
        self.body = body;
        Ok(())
    }

    async fn read_line(&mut self) -> Result<String, HttpError> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| self.protocol("a line is no text"));
            }
            if self.input.len() > HEAD_BYTES_MAX {
                return Err(self.protocol("a line is too long"));
            }
            self.read_some().await?;
        }
    }

    async fn read_some(&mut self) -> Result<(), HttpError> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(source) => Err(self.broken(source)),
        }
    }

    fn broken(&self, source: io::Error) -> HttpError {
        HttpError::Broken { url: self.url.clone(), source }
    }

    fn protocol(&self, problem: &str) -> HttpError {
        HttpError::Protocol { url: self.url.clone(), problem: problem.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each request on one connection with the next of these texts.
    async fn server(answers: &'static [&'static str]) -> (Target, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut requests = Vec::new();
            for answer in answers {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.expect("read");
                requests.push(String::from_utf8_lossy(&request[..length]).into_owned());
                for part in answer.as_bytes().chunks(7) {
                    stream.write_all(part).await.expect("written");
                    tokio::task::yield_now().await;
                }
            }
            requests
        });
        (Target::parse(&url, None).expect("a target"), task)
    }

    fn get(path: &str) -> Request<'_> {
        Request { method: "GET", path, headers: &[("moult-client", "me")], body: b"hi" }
    }

    #[tokio::test]
    async fn answers_of_all_shapes_on_one_connection() {
        let (target, server) = server(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
            "HTTP/1.1 503 Busy\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno",
        ])
        .await;
        let mut connection = Connection::open(&target).await.expect("connected");
        assert_eq!(connection.call(&get("/a")).await.expect("an answer"), 200);
        assert_eq!(connection.body(), b"hello world");
        assert_eq!(connection.call(&get("/b")).await.expect("an answer"), 404);
        assert_eq!(connection.body(), b"");
        assert_eq!(connection.call(&get("/c")).await.expect("an answer"), 200);
        assert_eq!(connection.body(), b"hello world");
        assert!(!connection.is_closing());
        assert_eq!(connection.call(&get("/d")).await.expect("an answer"), 503);
        assert_eq!(connection.body(), b"no");
        assert!(connection.is_closing());
        let requests = server.await.expect("the server ran");
        assert!(requests[0].starts_with("GET /a HTTP/1.1\r\nhost: 127.0.0.1:"), "{}", requests[0]);
        assert!(requests[0].ends_with("content-length: 2\r\nmoult-client: me\r\n\r\nhi"), "{}", requests[0]);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for (answer, broken) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", false),
            ("SSH-2.0-OpenSSH\r\n", false),
        ] {
            let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
            let (target, _server) = server(answers).await;
            let mut connection = Connection::open(&target).await.expect("connected");
            let error = connection.call(&get("/")).await.expect_err(answer);
            assert_eq!(matches!(error, HttpError::Broken { .. }), broken, "{error}");
        }
    }

    #[tokio::test]
    async fn a_header_cannot_smuggle_a_line() {
        let (target, _server) = server(&["never"]).await;
        let mut connection = Connection::open(&target).await.expect("connected");
        let request =
            Request { method: "GET", path: "/", headers: &[("moult-client", "a\r\nb: c")], body: b"" };
        assert!(connection.call(&request).await.is_err());
    }
}
