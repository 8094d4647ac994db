//! A peer made by hand from quinn and rustls, that does what no `Network` would.

use std::net::SocketAddr;
use std::sync::Arc;

use moult_crypto::Signer as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::support::{keys, soon};

/// What the peer presents.
#[derive(Clone, Copy)]
pub(crate) enum Presents {
    RawKey(u8),
    /// The key of the first seed, with signatures of the second.
    StolenKey(u8, u8),
    Certificate,
    Nothing,
}

pub(crate) struct Raw {
    pub(crate) endpoint: Endpoint,
}

impl Raw {
    pub(crate) fn new() -> Self {
        Self { endpoint: Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind") }
    }

    /// Someone who answers with the given key.
    pub(crate) fn listening(presents: Presents) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { endpoint: Endpoint::server(server(presents), address).expect("bind") }
    }

    pub(crate) async fn dial(
        &self,
        to: SocketAddr,
        presents: Presents,
        alpn: &[u8],
    ) -> Result<Connection, ConnectionError> {
        let connecting = self.endpoint.connect_with(client(presents, alpn), to, "moult").expect("valid");
        soon("handshake", connecting).await
    }

    /// Dials, and waits until the other side has accepted or refused.
    pub(crate) async fn enter(
        &self,
        to: SocketAddr,
        presents: Presents,
    ) -> Result<Connection, ConnectionError> {
        let connection = self.dial(to, presents, b"moult/2").await?;
        soon("first stream", connection.accept_uni()).await?;
        Ok(connection)
    }
}

pub(crate) async fn closed(connection: &Connection) -> ConnectionError {
    soon("close", connection.closed()).await
}

/// The application code a connection was closed with.
pub(crate) async fn close_code(connection: &Connection) -> moult_net::CloseCode {
    match closed(connection).await {
        ConnectionError::ApplicationClosed(close) => {
            moult_net::CloseCode::from_wire(close.error_code.into_inner()).expect("known")
        }
        other => panic!("closed with {other:?}"),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn client(presents: Presents, alpn: &[u8]) -> ClientConfig {
    wrap(tls_client(presents, alpn))
}

/// One that keeps every ticket it is given, and would send data before the handshake.
pub(crate) fn returning_client(presents: Presents) -> ClientConfig {
    let mut config = tls_client(presents, b"moult/2");
    config.resumption = rustls::client::Resumption::in_memory_sessions(64);
    config.enable_early_data = true;
    wrap(config)
}

fn wrap(config: rustls::ClientConfig) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS 1.3")))
}

fn tls_client(presents: Presents, alpn: &[u8]) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone {
            raw: !matches!(presents, Presents::Certificate),
        }));
    let mut config = match presents {
        Presents::Certificate => {
            let (chain, key) = x509();
            builder.with_client_auth_cert(chain, key).expect("fixture")
        }
        Presents::Nothing => builder.with_no_client_auth(),
        Presents::RawKey(_) | Presents::StolenKey(..) => {
            let resolver: Arc<dyn ResolvesClientCert> =
                Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(presents)));
            builder.with_client_cert_resolver(resolver)
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

fn server(presents: Presents) -> ServerConfig {
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3");
    let mut config = match presents {
        Presents::Certificate => {
            let (chain, key) = x509();
            builder.with_no_client_auth().with_single_cert(chain, key).expect("fixture")
        }
        _ => builder
            .with_client_cert_verifier(Arc::new(Anyone { raw: true }))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(presents)))),
    };
    config.alpn_protocols = vec![b"moult/2".to_vec()];
    ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).expect("TLS 1.3")))
}

fn x509() -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = include_bytes!("fixtures/x509-certificate.der").as_slice();
    let key = include_bytes!("fixtures/x509-key.der").as_slice();
    (vec![CertificateDer::from(certificate)], PrivatePkcs8KeyDer::from(key).into())
}

fn certified(presents: Presents) -> Arc<CertifiedKey> {
    let (shown, signing) = match presents {
        Presents::RawKey(seed) => (seed, seed),
        Presents::StolenKey(shown, signing) => (shown, signing),
        Presents::Certificate | Presents::Nothing => panic!("no raw key"),
    };
    // RFC 8410: a PKCS#8 and an SPKI envelope around 32 bytes each.
    let secret = [&hex("302e020100300506032b657004220420")[..], keys(signing).seed().as_slice()].concat();
    let public = [&hex("302a300506032b6570032100")[..], &keys(shown).public_key().0].concat();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(secret));
    let key = provider().key_provider.load_private_key(key).expect("ed25519");
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key))
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// Believes everyone.
#[derive(Debug)]
struct Anyone {
    raw: bool,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.raw
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.raw
    }
}
