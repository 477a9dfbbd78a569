//! The judge of servers' certificates: chain to a packed root, name, and time; and TLS's whole configuration.

use super::Access;
use super::certificates;
use super::time::Clock;
use super::warnings::Warnings;
use crate::messages::{FetchWarning, Validity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// How often another time is tried for a chain. The certificates of one chain give at most one bound each.
const TIMES: usize = 8;

/// The configuration for `access`: TLS 1.2 and 1.3, by `clock`; what it lets pass is noted in `warnings`. None where
/// the packed client certificate is unusable.
pub fn configuration(access: &Access, clock: Arc<Clock>, warnings: Arc<Warnings>) -> Option<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Without roots nothing is trusted, and every https server is of an unknown issuer.
    let roots = certificates::roots(&access.roots).map_or_else(|_| RootCertStore::empty(), |(roots, _)| roots);
    let judge =
        Judge { roots, algorithms: provider.signature_verification_algorithms, pinned: access.pinned, warnings };
    let builder = ClientConfig::builder_with_details(provider, clock).with_safe_default_protocol_versions().ok()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(judge));
    Some(match &access.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let certified = certificates::certified(identity)
                .inspect_err(|fault| log::error!("the packed client certificate or its key {fault}"))
                .ok()?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    })
}

/// When the certificate that `error` complains of is valid, where it complains of that alone.
pub fn validity(error: &Error) -> Option<Validity> {
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            Some(Validity::Until(not_after.as_secs()))
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            Some(Validity::From(not_before.as_secs()))
        }
        _ => None,
    }
}

/// Judges by roots, name and time as rustls does by itself; but where the content is pinned, a certificate whose only
/// fault is time is let pass.
#[derive(Debug)]
struct Judge {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    pinned: bool,
    warnings: Arc<Warnings>,
}

impl Judge {
    fn chain(
        &self,
        certificate: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        time: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(certificate, &self.roots, intermediates, time, algorithms)
    }

    /// Whether there is any time at which the chain, which is refused with `error`, is valid as a whole. Each refusal
    /// names the bound that was missed, and the next try is at that bound.
    fn chain_of_another_time(
        &self,
        certificate: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        mut error: Error,
    ) -> Result<(), Error> {
        for _ in 0..TIMES {
            let (Some(Validity::From(bound)) | Some(Validity::Until(bound))) = validity(&error) else {
                return Err(error);
            };
            let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(bound));
            match self.chain(certificate, intermediates, time) {
                Ok(()) => return Ok(()),
                Err(next) => error = next,
            }
        }
        Err(error)
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let passed = match self.chain(&certificate, intermediates, now) {
            Err(error) if self.pinned && validity(&error).is_some() => {
                self.chain_of_another_time(&certificate, intermediates, error.clone())?;
                Some(error)
            }
            verdict => {
                verdict?;
                None
            }
        };
        verify_server_name(&certificate, server_name)?;
        if let Some(valid) = passed.as_ref().and_then(validity) {
            self.warnings.note(FetchWarning::LetPass { now: now.as_secs(), valid });
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
