//! https with packed roots only. The certificates in `keys/` were made for these tests: a root, and one for
//! 127.0.0.1 signed by it, both valid until 2100.

use crate::bed::{Bed, CHUNK, Outcome, image, published, wanted};
use crate::good::checksummed;
use crate::server::{Reply, Server, file};
use rootbeam_init::messages::{FetchCause, StoreCause, TlsFault};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

const ROOT: &[u8] = include_bytes!("keys/root.pem");
const CERTIFICATE: &[u8] = include_bytes!("keys/server.pem");
const KEY: &[u8] = include_bytes!("keys/server.key");

fn config() -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(CERTIFICATE).collect::<Result<_, _>>().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_slice(KEY).unwrap());
    Arc::new(config.unwrap())
}

fn server(place: &str, image: &[u8]) -> Server {
    let files = published(image);
    Server::start_tls(place, config(), move |request| match files.get(&request.path) {
        Some(bytes) => file(bytes, request),
        None => Reply::status("404 Not Found"),
    })
}

fn fault(place: &str, mut bed: Bed) -> FetchCause {
    let server = server(place, &image(CHUNK));
    match bed.run(wanted(&[server.url("/web.img")])) {
        Outcome::Failed(StoreCause::Fetch { source: 0, cause }) => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_arrives_over_https_under_a_packed_root() {
    let image = image(20 * CHUNK + 1);
    let server = server("127.0.0.1:0", &image);
    let mut bed = Bed::with_roots(ROOT, 2030);
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed(&image));
    bed.assert_holds(&image);
}

#[test]
fn no_root_a_wrong_name_and_a_wrong_clock_are_told_apart() {
    assert_eq!(fault("127.0.0.1:0", Bed::new()), FetchCause::Tls(TlsFault::Issuer));
    assert_eq!(fault("127.0.0.2:0", Bed::with_roots(ROOT, 2030)), FetchCause::Tls(TlsFault::Name));
    assert_eq!(fault("127.0.0.1:0", Bed::with_roots(ROOT, 2200)), FetchCause::Tls(TlsFault::Time));
}

#[test]
fn a_redirect_from_https_to_http_is_not_followed() {
    let image = image(CHUNK);
    let open = Server::of(published(&image));
    let there = open.url("");
    let server = Server::start_tls("127.0.0.1:0", config(), move |request| {
        Reply::status("302 Found").header("Location", format!("{there}{}", request.path))
    });
    let outcome = Bed::with_roots(ROOT, 2030).run(wanted(&[server.url("/web.img")]));
    let cause = StoreCause::Fetch { source: 0, cause: FetchCause::Redirect };
    assert_eq!(outcome, Outcome::Failed(cause));
    assert_eq!(open.requests("/web.img.manifest"), []);
}
