//! Where a node's API is.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio_rustls::rustls::ClientConfig;

/// The base address of an API, taken apart.
#[derive(Clone)]
pub(crate) struct Target {
    /// As given, without a slash at the end.
    pub(crate) url: String,
    /// Name or address, an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// With TLS, and these roots.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Target {
    /// Takes `http://host:port` apart.
    ///
    /// # Errors
    /// It is something else; `https` without roots.
    pub(crate) fn parse(url: &str, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/');
        let (secure, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => bail!("`{url}` is no API address: expected http://HOST:PORT or https://HOST:PORT"),
        };
        if rest.contains('/') || rest.contains('@') {
            bail!("`{url}` is no API address: give only scheme, host and port");
        }
        let port_at = rest.rfind(':').filter(|at| !rest[*at..].contains(']'));
        let (host, port) = match port_at {
            Some(at) => {
                let port = rest[at + 1..].parse().with_context(|| format!("`{url}`: bad port"))?;
                (&rest[..at], port)
            }
            None => (rest, if secure { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            bail!("`{url}` is no API address: it names no host");
        }
        let tls = if secure { Some(tls.context("no roots for TLS are loaded")?) } else { None };
        Ok(Self { url: url.to_owned(), host: host.to_owned(), port, tls })
    }

    /// The value of the header `host`.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Bytes as one segment of a path.
pub(crate) fn path_segment(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && bytes.len() > 2) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (url, host, port, authority) in [
            ("http://127.0.0.1:7400/", "127.0.0.1", 7400, "127.0.0.1:7400"),
            ("http://[::1]:7400", "::1", 7400, "[::1]:7400"),
            ("http://node.example", "node.example", 80, "node.example:80"),
            ("http://[::1]", "::1", 80, "[::1]:80"),
        ] {
            let target = Target::parse(url, None).expect(url);
            assert_eq!((target.host.as_str(), target.port), (host, port));
            assert_eq!(target.authority(), authority);
        }
        for url in
            ["127.0.0.1:7400", "ftp://a", "http://", "http://a:b", "http://a/b", "https://a", "http://a\r\nb"]
        {
            assert!(Target::parse(url, None).is_err(), "{url}");
        }
    }

    #[test]
    fn a_segment_stays_one_segment() {
        assert_eq!(path_segment(b"a/b c?.d"), "a%2Fb%20c%3F.d");
        assert_eq!(path_segment(b".."), "%2E%2E");
        assert_eq!(path_segment("ü".as_bytes()), "%C3%BC");
    }
}
