//! Certificates and keys in PEM, as `rootbeam pack` takes them and TLS uses them: one reading for both.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use std::fmt;
use std::sync::Arc;

/// A client certificate with its chain and its key, both PEM. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, then those that lead to its root.
    pub certificate: Vec<u8>,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a client certificate")
    }
}

/// What makes PEM unusable. `Display` continues a sentence that names the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemFault {
    /// There is nothing of the kind in it.
    #[error("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// What calls itself a certificate is none.
    #[error("holds a certificate that cannot be read")]
    Certificate,
    /// No key, or an encrypted one, which nobody could type a password for.
    #[error("holds no private key in PEM form without a password (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    /// A kind of key that TLS does not use here.
    #[error("holds a private key that is neither RSA, ECDSA (P-256, P-384) nor Ed25519")]
    Key,
    /// The key of another certificate.
    #[error("holds the key of another certificate")]
    OtherKey,
}

/// The roots of `pem`, at least one, and how many of its certificates cannot be a root.
pub fn roots(pem: &[u8]) -> Result<(RootCertStore, usize), PemFault> {
    let mut store = RootCertStore::empty();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).flatten().collect();
    if certificates.is_empty() {
        return Err(PemFault::NoCertificate);
    }
    match store.add_parsable_certificates(certificates) {
        (0, _) => Err(PemFault::Certificate),
        (_, ignored) => Ok((store, ignored)),
    }
}

/// Certificate and key of `identity`, which belong together.
pub fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, PemFault> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&identity.certificate).flatten().collect();
    if chain.is_empty() {
        return Err(PemFault::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(|_| PemFault::NoKey)?;
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(PemFault::OtherKey),
        Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)) => Err(PemFault::Certificate),
        Err(_) => Err(PemFault::Key),
    }
}
