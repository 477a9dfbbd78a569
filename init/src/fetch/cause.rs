//! From an error's chain of sources to the one cause that the store acts on.

use crate::messages::{FetchCause, TlsFault, Validity};
use crate::sys::names::NameError;
use rustls::{AlertDescription, CertificateError};
use std::error::Error;
use std::io::{self, ErrorKind};

/// The cause of a request that got no answer.
///
/// Through a proxy, what fails before the request is on its way is between this machine and the proxy, or between the
/// proxy and the server; only TLS is the server's own.
pub fn of_request(error: &reqwest::Error, proxied: bool) -> FetchCause {
    match of_chain(error) {
        Some(FetchCause::Tls(fault)) => return FetchCause::Tls(fault),
        _ if proxied && error.is_connect() => return FetchCause::Proxy,
        // An end before the answer is a broken connection; `Short` is kept for bodies.
        Some(FetchCause::Short) => return FetchCause::Reset,
        Some(FetchCause::Stalled) if error.is_connect() => return FetchCause::Unreachable,
        Some(cause) => return cause,
        None => {}
    }
    if error.is_connect() {
        return FetchCause::Unreachable;
    }
    if error.is_builder() { FetchCause::Protocol } else { FetchCause::Reset }
}

/// The cause of a body that broke off.
pub fn of_body(error: &io::Error) -> FetchCause {
    of_chain(error).unwrap_or(FetchCause::Reset)
}

fn of_chain(error: &(dyn Error + 'static)) -> Option<FetchCause> {
    let mut found = None;
    let mut link = Some(error);
    // The innermost verdict is the most precise; the bound is against a chain that bites its tail.
    for _ in 0..32 {
        let Some(current) = link else { break };
        found = of_link(current).or(found);
        link = inner(current);
    }
    found
}

/// `io::Error::source` skips the error that it wraps, so that one is asked for by name.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn of_link(error: &(dyn Error + 'static)) -> Option<FetchCause> {
    if let Some(name) = error.downcast_ref::<NameError>() {
        return Some(match name {
            NameError::Unknown => FetchCause::NameUnknown,
            NameError::NoServer => FetchCause::NameServer,
        });
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(FetchCause::Tls(of_tls(tls)));
    }
    if error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout) {
        return Some(FetchCause::Stalled);
    }
    if let Some(http) = error.downcast_ref::<hyper::Error>() {
        return of_http(http);
    }
    error.downcast_ref::<io::Error>().and_then(|error| of_io(error.kind()))
}

fn of_http(error: &hyper::Error) -> Option<FetchCause> {
    if error.is_parse() {
        Some(FetchCause::Protocol)
    } else if error.is_incomplete_message() {
        Some(FetchCause::Short)
    } else {
        None
    }
}

fn of_io(kind: ErrorKind) -> Option<FetchCause> {
    Some(match kind {
        ErrorKind::ConnectionRefused => FetchCause::Refused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => FetchCause::Reset,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => FetchCause::Unreachable,
        ErrorKind::AddrNotAvailable => FetchCause::Unreachable,
        ErrorKind::TimedOut => FetchCause::Stalled,
        ErrorKind::UnexpectedEof => FetchCause::Short,
        _ => return None,
    })
}

fn of_tls(error: &rustls::Error) -> TlsFault {
    use rustls::Error;
    match error {
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::ExpiredContext { time, not_after } => {
                TlsFault::Time { now: time.as_secs(), valid: Validity::Until(not_after.as_secs()) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                TlsFault::Time { now: time.as_secs(), valid: Validity::From(not_before.as_secs()) }
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFault::Name,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFault::Issuer,
            _ => TlsFault::Certificate,
        },
        Error::NoCertificatesPresented | Error::UnsupportedNameType => TlsFault::Certificate,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsFault::Terms,
        Error::AlertReceived(alert) => of_alert(*alert),
        // A web server without TLS at this port, most likely; what was damaged on the way rarely looks like that.
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => TlsFault::Foreign,
        // A record that was damaged on the way, and what has no name yet: to give up for good takes a reason.
        _ => TlsFault::Broken,
    }
}

/// What a server says before it closes (RFC 8446, 6.2).
fn of_alert(alert: AlertDescription) -> TlsFault {
    match alert {
        // Of the certificate that it was shown, or was not.
        AlertDescription::CertificateRequired
        | AlertDescription::NoCertificate
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateUnobtainable
        | AlertDescription::BadCertificateHashValue
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => TlsFault::Client,
        // Of what it was offered.
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InappropriateFallback
        | AlertDescription::InsufficientSecurity
        | AlertDescription::ExportRestriction
        | AlertDescription::MissingExtension
        | AlertDescription::UnsupportedExtension
        | AlertDescription::NoApplicationProtocol
        | AlertDescription::EncryptedClientHelloRequired => TlsFault::Terms,
        // A certificate that is not loaded yet (internal_error), a name that is not known while the configuration is read
        // anew (unrecognized_name), a record of ours that was damaged on the way (bad_record_mac), and the like.
        _ => TlsFault::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::UnixTime;
    use std::time::Duration;

    #[test]
    fn digs_through_wrapped_errors() {
        let wrap = |inner: io::Error| io::Error::other(inner);
        let of = |kind: ErrorKind| of_body(&wrap(wrap(kind.into())));
        assert_eq!(of(ErrorKind::ConnectionRefused), FetchCause::Refused);
        assert_eq!(of(ErrorKind::UnexpectedEof), FetchCause::Short);
        assert_eq!(of(ErrorKind::TimedOut), FetchCause::Stalled);
        assert_eq!(of(ErrorKind::HostUnreachable), FetchCause::Unreachable);
        assert_eq!(of_body(&wrap(io::Error::other(NameError::NoServer))), FetchCause::NameServer);
        let (time, not_after) = (7, 5);
        let [time_of, bound] = [time, not_after].map(|s| UnixTime::since_unix_epoch(Duration::from_secs(s)));
        let late = CertificateError::ExpiredContext { time: time_of, not_after: bound };
        let late = io::Error::new(ErrorKind::InvalidData, rustls::Error::InvalidCertificate(late));
        let fault = TlsFault::Time { now: time, valid: Validity::Until(not_after) };
        assert_eq!(of_body(&wrap(late)), FetchCause::Tls(fault));
    }

    #[test]
    fn the_innermost_verdict_wins() {
        let inner = io::Error::other(NameError::Unknown);
        assert_eq!(of_body(&io::Error::new(ErrorKind::ConnectionReset, inner)), FetchCause::NameUnknown);
    }

    #[test]
    fn only_what_time_cannot_mend_of_tls_is_definite() {
        use rustls::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};
        let alert = Error::AlertReceived;
        for (error, fault) in [
            (alert(AlertDescription::InternalError), TlsFault::Broken),
            (alert(AlertDescription::UnrecognisedName), TlsFault::Broken),
            (alert(AlertDescription::BadRecordMac), TlsFault::Broken),
            (alert(AlertDescription::DecodeError), TlsFault::Broken),
            (alert(AlertDescription::UserCanceled), TlsFault::Broken),
            (alert(AlertDescription::from(200)), TlsFault::Broken),
            (Error::DecryptError, TlsFault::Broken),
            (Error::General("unlikely".into()), TlsFault::Broken),
            (alert(AlertDescription::HandshakeFailure), TlsFault::Terms),
            (alert(AlertDescription::ProtocolVersion), TlsFault::Terms),
            (alert(AlertDescription::InsufficientSecurity), TlsFault::Terms),
            (alert(AlertDescription::NoApplicationProtocol), TlsFault::Terms),
            (Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13), TlsFault::Terms),
            (alert(AlertDescription::CertificateRequired), TlsFault::Client),
            (alert(AlertDescription::BadCertificate), TlsFault::Client),
            (alert(AlertDescription::UnknownCA), TlsFault::Client),
            (alert(AlertDescription::AccessDenied), TlsFault::Client),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), TlsFault::Issuer),
            (Error::InvalidCertificate(CertificateError::NotValidForName), TlsFault::Name),
            (Error::InvalidCertificate(CertificateError::Revoked), TlsFault::Certificate),
            (Error::InvalidCertificate(CertificateError::BadEncoding), TlsFault::Certificate),
            (Error::NoCertificatesPresented, TlsFault::Certificate),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), TlsFault::Foreign),
            (Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments), TlsFault::Foreign),
        ] {
            let cause = of_body(&io::Error::new(ErrorKind::InvalidData, error.clone()));
            assert_eq!(cause, FetchCause::Tls(fault), "{error:?}");
            assert_eq!(cause.is_passing(), fault == TlsFault::Broken, "{error:?}");
        }
    }
}
