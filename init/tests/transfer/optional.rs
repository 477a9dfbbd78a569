//! An image that may be missing: absent only where its servers say so.

use crate::bed::{Bed, CHUNK, Outcome, image, manifest, published, wanted};
use crate::good::{checksummed, facts};
use crate::server::{Reply, Server};
use minisign::KeyPair;
use rootbeam_init::label::Label;
use rootbeam_init::manifest::Manifest;
use rootbeam_init::messages::{FetchCause, ImageFacts, StoreCause, StoreNews, StoreOrder, Trust, Wanted};
use rootbeam_init::trust::Anchors;
use std::collections::BTreeMap;

fn optional(server: &Server) -> Wanted {
    Wanted { optional: true, ..wanted(&[server.url("/web.img")]) }
}

/// The same where a key is packed.
fn signed(server: &Server) -> Wanted {
    let pair = KeyPair::generate_unencrypted_keypair().unwrap();
    let key = pair.pk.to_base64();
    Wanted { anchors: Anchors::new(&[("web.pub", key.as_bytes())], None, None).unwrap(), ..optional(server) }
}

fn bare(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([("/web.img".to_owned(), image.to_vec())])
}

#[test]
fn what_no_server_has_is_absent_with_and_without_a_key() {
    for demand in [optional, signed] {
        for line in ["404 Not Found", "410 Gone"] {
            let server = Server::start(move |_| Reply::status(line));
            let mut bed = Bed::new();
            assert_eq!(bed.run(demand(&server)), Outcome::Absent);
            assert_eq!(bed.sizes, [0_u64; 0], "no memory was asked for");
            assert_eq!(server.requests("/web.img").len(), 1);
        }
    }
}

#[test]
fn what_a_server_has_is_fetched_like_any_other_image() {
    let image = image(3 * CHUNK + 7);
    let server = Server::of(published(&image));
    let mut bed = Bed::new();
    assert_eq!(bed.run(optional(&server)), checksummed(&image));
    bed.assert_holds(&image);
    let server = Server::of(bare(&image));
    assert_eq!(Bed::new().run(optional(&server)), facts(&image, Trust::Unverified, None, None));
}

#[test]
fn what_a_server_has_unsigned_is_refused_where_a_key_is_packed() {
    let server = Server::of(bare(&image(3 * CHUNK)));
    let mut bed = Bed::new();
    assert_eq!(bed.run(signed(&server)), Outcome::Failed(StoreCause::ManifestMissing { source: 0 }));
    assert_eq!(bed.sizes, [0_u64; 0], "not one byte of it was taken in");
}

#[test]
fn an_optional_image_that_is_unvouched_is_refused_where_that_is_demanded() {
    let server = Server::of(bare(&image(CHUNK)));
    let demand = Wanted { require_verified: true, ..optional(&server) };
    assert_eq!(Bed::new().run(demand), Outcome::Failed(StoreCause::Unverified));
}

#[test]
fn what_may_not_be_read_is_not_absent() {
    let server = Server::start(|_| Reply::status("403 Forbidden"));
    let cause = FetchCause::Status { status: 403, retry_after: None };
    assert_eq!(Bed::new().run(optional(&server)), Outcome::Failed(StoreCause::Fetch { source: 0, cause }));
}

#[test]
fn a_server_in_trouble_is_asked_until_it_knows() {
    let server = Server::start(|request| match request.nth {
        0 => Reply::status("503 Service Unavailable"),
        _ => Reply::status("404 Not Found"),
    });
    assert_eq!(Bed::new().run(optional(&server)), Outcome::Absent);
    let refused = FetchCause::Status { status: 503, retry_after: None };
    let mut bed = Bed::new();
    let server = Server::start(|_| Reply::status("503 Service Unavailable"));
    bed.send(StoreOrder::Start(optional(&server)));
    while bed.troubles.len() < 4 {
        assert!(!matches!(bed.news(), StoreNews::Absent | StoreNews::Failed(_)));
    }
    assert!(bed.troubles.iter().all(|trouble| *trouble == (0, refused.clone())), "{:?}", bed.troubles);
}

#[test]
fn the_layers_of_a_manifest_are_told() {
    let image = image(CHUNK);
    let named = Manifest { layers: vec!["site.squashfs".into(), "latest.manifest".into()], ..manifest(&image) };
    let mut files = published(&image);
    files.insert("/web.img.manifest".into(), named.render().into_bytes());
    let server = Server::of(files);
    let Outcome::Done(ImageFacts { layers, .. }) = Bed::new().run(wanted(&[server.url("/web.img")])) else { panic!() };
    assert_eq!(layers, ["site.squashfs", "latest.manifest"].map(|name| Label::new(name).unwrap()));
}
