//! From an error's chain of sources to the one cause that the store acts on.

use crate::messages::{FetchCause, TlsFault};
use crate::sys::names::NameError;
use rustls::CertificateError;
use std::error::Error;
use std::io::{self, ErrorKind};

/// A redirect that is not followed: too many, or away from https.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the redirect is not allowed")]
pub struct RedirectRefused;

/// The cause of a request that got no answer.
pub fn of_request(error: &reqwest::Error) -> FetchCause {
    match of_chain(error) {
        // An end before the answer is a broken connection; `Short` is kept for bodies.
        Some(FetchCause::Short) => return FetchCause::Reset,
        Some(FetchCause::Stalled) if error.is_connect() => return FetchCause::Unreachable,
        Some(cause) => return cause,
        None => {}
    }
    if error.is_redirect() {
        return FetchCause::Redirect;
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
    if error.is::<RedirectRefused>() {
        return Some(FetchCause::Redirect);
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
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFault::Time,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFault::Name,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFault::Issuer,
            _ => TlsFault::Other,
        },
        _ => TlsFault::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digs_through_wrapped_errors() {
        let wrap = |inner: io::Error| io::Error::other(inner);
        let of = |kind: ErrorKind| of_body(&wrap(wrap(kind.into())));
        assert_eq!(of(ErrorKind::ConnectionRefused), FetchCause::Refused);
        assert_eq!(of(ErrorKind::UnexpectedEof), FetchCause::Short);
        assert_eq!(of(ErrorKind::TimedOut), FetchCause::Stalled);
        assert_eq!(of(ErrorKind::HostUnreachable), FetchCause::Unreachable);
        assert_eq!(of_body(&wrap(io::Error::other(NameError::NoServer))), FetchCause::NameServer);
        let late = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let late = io::Error::new(ErrorKind::InvalidData, late);
        assert_eq!(of_body(&wrap(late)), FetchCause::Tls(TlsFault::Time));
    }

    #[test]
    fn the_innermost_verdict_wins() {
        let inner = io::Error::other(NameError::Unknown);
        assert_eq!(of_body(&io::Error::new(ErrorKind::ConnectionReset, inner)), FetchCause::NameUnknown);
    }
}
