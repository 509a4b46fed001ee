//! TLS with certificates checked against the system's authorities or those of a file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum TlsError {
    /// The host cannot be the subject of a certificate.
    #[error("{0:?} is neither a host name nor an address, so no certificate can be checked")]
    Name(String),
    /// The file of authorities cannot be read.
    #[error("cannot read the authorities in {path}: {reason}, expected certificates in PEM")]
    File { path: PathBuf, reason: pem::Error },
    /// A certificate cannot be an authority.
    #[error("a certificate in {path} cannot be an authority: {reason}")]
    Authority { path: PathBuf, reason: rustls::Error },
    /// No authority was found.
    #[error("no certificate of an authority in {place}, expected one or more{reasons}")]
    NoAuthority { place: String, reasons: String },
    /// The provider supports no protocol version.
    #[error("no TLS: {0}")]
    Protocol(rustls::Error),
}

/// TLS settings for one server.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Creates settings for `host`. Its certificate must come from an authority of the system or,
    /// if given, of `ca_file` alone.
    pub(crate) fn new(host: &str, ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned());
        let name = name.map_err(|_| TlsError::Name(host.to_owned()))?;
        let roots = match ca_file {
            Some(path) => of_file(path)?,
            None => of_system()?,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Protocol)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Performs the handshake.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

fn of_file(path: &Path) -> Result<RootCertStore, TlsError> {
    let unread = |reason| TlsError::File { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unread)? {
        let added = roots.add(certificate.map_err(unread)?);
        added.map_err(|reason| TlsError::Authority { path: path.to_owned(), reason })?;
    }
    if roots.is_empty() {
        let place = path.display().to_string();
        return Err(TlsError::NoAuthority { place, reasons: String::new() });
    }
    Ok(roots)
}

fn of_system() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have certificates that are invalid by today's rules; one good one is enough.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reasons = found.errors.iter().map(|error| format!("; {error}")).collect();
        let place = "the system's store (--ca-file names another)".to_owned();
        return Err(TlsError::NoAuthority { place, reasons });
    }
    Ok(roots)
}
