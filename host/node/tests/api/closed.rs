//! A node that listens beyond loopback: TLS, and the token for everything.

use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{Answer, read_answer};
use crate::setup::Setup;

pub(crate) fn run() {
    let mut setup = Setup::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/tls");
    setup.config.api.tls_cert = Some(folder.join("test-only.cert.pem"));
    setup.config.api.tls_key = Some(folder.join("test-only.key.pem"));
    setup.config.api.listen.set_ip(Ipv4Addr::UNSPECIFIED.into());
    let node = setup.spawn();
    let address = node.address;
    let client = Tls::new(&folder.join("test-only.cert.pem"), address);
    let token = format!("authorization: Bearer {}\r\n", setup.token);

    node.wait_until(|| client.call("GET", "/readyz", &token, b"").status == 200);
    client.call("GET", "/healthz", "", b"").is(200);
    for path in ["/readyz", "/metrics", "/v1/status", "/v1/kv/a", "/unknown"] {
        client.call("GET", path, "", b"").refused(401, "unauthorized");
        client.call("GET", path, "authorization: Bearer 00\r\n", b"").refused(401, "unauthorized");
    }
    client.call("PUT", "/v1/kv/a", "", b"x").refused(401, "unauthorized");
    client.call("PUT", "/v1/kv/a", &token, b"x").is(200);
    assert_eq!(client.call("GET", "/v1/kv/a", &token, b"").is(200).body, b"x");

    // Plain HTTP is not spoken.
    let mut plain = TcpStream::connect(address).expect("connected");
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    node.terminate();
}

struct Tls {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Tls {
    fn new(trusted: &Path, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(trusted).expect("a certificate")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config: Arc::new(config), address }
    }

    fn call(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(self.config.clone(), name).expect("a connection");
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        stream.get_mut().write_all(&[head.as_bytes(), body].concat()).expect("sent");
        read_answer(&mut stream, false)
    }
}
