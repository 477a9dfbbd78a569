//! What ends well at once.

use crate::bed::{Bed, CHUNK, Outcome, image, manifest, published, wanted};
use crate::server::Server;
use rootbeam_init::digest::Sha256;
use rootbeam_init::messages::{Compressor, FilesystemKind, ImageFacts, StoreNews, StoreOrder, Trust};
use std::collections::BTreeMap;
use std::fs::File;

pub fn facts(image: &[u8], trust: Trust, sha256: Option<Sha256>, version: Option<u64>) -> Outcome {
    Outcome::Done(ImageFacts {
        filesystem: FilesystemKind::Squashfs,
        compressor: Compressor::Zstd,
        size: image.len() as u64,
        sha256,
        trust,
        signers: vec![],
        manifest: version.map(|_| Sha256::of(manifest(image).render().as_bytes())),
        date: None,
        version,
        layers: vec![],
    })
}

pub fn checksummed(image: &[u8]) -> Outcome {
    facts(image, Trust::Checksummed, Some(Sha256::of(image)), Some(7))
}

/// The same by a manifest with these bytes.
fn checksummed_by(manifest: &str, image: &[u8]) -> Outcome {
    match checksummed(image) {
        Outcome::Done(facts) => Outcome::Done(ImageFacts { manifest: Some(Sha256::of(manifest.as_bytes())), ..facts }),
        other => other,
    }
}

#[test]
fn an_image_that_is_whole_before_the_order_to_serve_it_comes_is_served_all_the_same() {
    let image = image(300 * CHUNK);
    let server = Server::of(published(&image));
    let mut bed = Bed::new();
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed(&image));
    // A connection that ends at once: what is told is that its file is lost, not that the store has ended.
    bed.send_with(&StoreOrder::Serve { eio_seconds: None }, &File::open("/dev/null").unwrap());
    loop {
        match bed.news() {
            StoreNews::Lost => break,
            StoreNews::Released => panic!("no loop device stands on the image"),
            _ => {}
        }
    }
}

#[test]
fn an_image_with_a_manifest_arrives_whole_sealed_and_in_one_request() {
    for size in [4096, CHUNK - 1, CHUNK, CHUNK + 1, 40 * CHUNK + 777] {
        let image = image(size);
        let server = Server::of(published(&image));
        let mut bed = Bed::new();
        assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed(&image), "{size}");
        bed.assert_holds(&image);
        assert_eq!(server.requests("/web.img").len(), 1);
        assert_eq!(bed.sizes, [size as u64]);
        let tally = bed.tally;
        assert_eq!((tally.total, tally.verified, tally.fetched), (size as u64, size as u64, size as u64));
        assert_eq!((tally.requests, tally.failures, tally.rejected_chunks), (3, 0, 0));
    }
}

#[test]
fn a_manifest_url_leads_to_the_image_beside_it() {
    let image = image(3 * CHUNK);
    let mut files = published(&image);
    let manifest = files.remove("/web.img.manifest").unwrap();
    files.insert("/latest.manifest".into(), manifest);
    let server = Server::of(files);
    let mut bed = Bed::new();
    assert_eq!(bed.run(wanted(&[server.url("/latest.manifest")])), checksummed(&image));
    bed.assert_holds(&image);
}

#[test]
fn a_checksum_file_beside_the_image_is_used_where_there_is_no_manifest() {
    let image = image(5 * CHUNK + 3);
    let hash = Sha256::of(&image);
    for (path, text) in [
        ("/web.img.sha256", format!("{hash}\n")),
        ("/web.img.sha256", format!("{hash}  web.img\n")),
        ("/SHA256SUMS", format!("{}  other\n{hash} *web.img\n", Sha256([1; 32]))),
    ] {
        let files = BTreeMap::from([("/web.img".into(), image.clone()), (path.to_owned(), text.into_bytes())]);
        let server = Server::of(files);
        let mut bed = Bed::new();
        let outcome = bed.run(wanted(&[server.url("/web.img")]));
        assert_eq!(outcome, facts(&image, Trust::Checksummed, Some(hash), None), "{path}");
        bed.assert_holds(&image);
    }
}

#[test]
fn the_operators_hash_pins_an_image_with_and_without_a_manifest() {
    let image = image(5 * CHUNK + 3);
    let hash = Sha256::of(&image);
    let bare = BTreeMap::from([("/web.img".to_owned(), image.clone())]);
    for (files, version) in [(published(&image), Some(7)), (bare, None)] {
        let server = Server::of(files);
        let mut bed = Bed::new();
        let mut wanted = wanted(&[server.url("/web.img")]);
        wanted.sha256 = Some(hash);
        wanted.require_verified = true;
        assert_eq!(bed.run(wanted), facts(&image, Trust::Pinned, Some(hash), version));
        bed.assert_holds(&image);
    }
}

#[test]
fn an_image_without_any_hash_is_called_unverified() {
    let image = image(5 * CHUNK + 3);
    let server = Server::of(BTreeMap::from([("/web.img".into(), image.clone())]));
    let mut bed = Bed::new();
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), facts(&image, Trust::Unverified, None, None));
    bed.assert_holds(&image);
}

#[test]
fn no_byte_of_the_image_is_asked_for_before_its_size_is_admitted() {
    let image = image(5 * CHUNK);
    let server = Server::of(published(&image));
    let mut bed = Bed::new();
    bed.send(StoreOrder::Start(wanted(&[server.url("/web.img")])));
    while bed.sizes.is_empty() {
        bed.news();
    }
    assert_eq!(server.requests("/web.img"), []);
    assert_eq!(server.requests("/web.img.chunks"), []);
    bed.send(StoreOrder::Admitted);
    assert_eq!(bed.outcome(), checksummed(&image));
}

#[test]
fn a_manifest_of_the_running_kernel_is_followed() {
    let image = image(CHUNK);
    let mut files = published(&image);
    let manifest = rootbeam_init::manifest::Manifest { kernel: Some("6.1.0-test".into()), ..manifest(&image) };
    let text = manifest.render();
    files.insert("/web.img.manifest".into(), text.clone().into_bytes());
    let server = Server::of(files);
    assert_eq!(Bed::new().run(wanted(&[server.url("/web.img")])), checksummed_by(&text, &image));
}

#[test]
fn a_source_that_only_the_manifest_names_is_enough() {
    let image = image(40 * CHUNK + 1);
    let mirror = Server::of(std::collections::BTreeMap::from([("/mirror/web.img".to_owned(), image.clone())]));
    let mut files = published(&image);
    files.remove("/web.img");
    let sources = vec![mirror.url("/mirror/"), "ftp://nowhere/".to_owned()];
    let manifest = rootbeam_init::manifest::Manifest { sources, ..manifest(&image) };
    let text = manifest.render();
    files.insert("/web.img.manifest".to_owned(), text.clone().into_bytes());
    let server = Server::of(files);
    let mut bed = Bed::new();
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed_by(&text, &image));
    bed.assert_holds(&image);
    assert_eq!((bed.sources[&1].fetched, bed.sources[&0].fetched), (image.len() as u64, 0));
}
