//! Roots of trust for `https` APIs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Where systems keep theirs.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A configuration that trusts the roots in a file, or the system's.
pub(crate) fn config(roots: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    let system = || SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.is_file());
    let path = roots
        .map(Path::to_owned)
        .or_else(system)
        .context("this system has no file of root certificates: give one with --tls-ca")?;
    let mut store = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (added, _) = store.add_parsable_certificates(certificates.filter_map(Result::ok));
    ensure!(added > 0, "{} holds no usable certificate", path.display());
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(store).with_no_client_auth()))
}
