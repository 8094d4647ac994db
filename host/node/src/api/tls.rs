//! Certificate and key from PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, crypto::ring};
use tokio_rustls::TlsAcceptor;

use crate::config::ApiConfig;
use crate::node::NodeError;

/// `None` where the interface speaks plain HTTP.
///
/// # Errors
/// A file cannot be read, or they do not belong together.
pub(super) fn acceptor(config: &ApiConfig, alpn: &[u8]) -> Result<Option<TlsAcceptor>, NodeError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain = chain.map_err(|e| wrong("api.tls_cert", cert, e))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("api.tls_key", key, e))?;
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|e| wrong("api.tls_cert", cert, e))?;
    server.alpn_protocols = vec![alpn.to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

fn wrong(what: &str, path: &Path, problem: impl std::fmt::Display) -> NodeError {
    NodeError::Listen { what: format!("{what} {}", path.display()), problem: problem.to_string() }
}
