//! What must not boot, and how it is told.

use crate::bed::{Bed, CHUNK, Outcome, image, manifest, published, wanted};
use crate::server::{Reply, Server, file};
use minisign::KeyPair;
use rootbeam_init::digest::Sha256;
use rootbeam_init::label::Label;
use rootbeam_init::manifest::{MAX_BYTES, Manifest};
use rootbeam_init::messages::{FetchCause, StoreCause, Trust, Wanted};
use rootbeam_init::trust::{Anchors, Key, SignatureFault};
use std::collections::BTreeMap;

fn failure(files: BTreeMap<String, Vec<u8>>) -> Outcome {
    let server = Server::of(files);
    let outcome = |streams| Bed::new().run(Wanted { streams, ..wanted(&[server.url("/web.img")]) });
    let loaded = outcome(false);
    assert_eq!(outcome(true), loaded, "where the image is streamed it is refused for the same cause");
    loaded
}

fn bare(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([("/web.img".to_owned(), bytes.to_vec())])
}

fn with_manifest(image: &[u8], text: Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    let mut files = published(image);
    files.insert("/web.img.manifest".into(), text);
    files
}

#[test]
fn a_flipped_bit_names_the_chunk() {
    let good = image(9 * CHUNK);
    let mut files = published(&good);
    files.get_mut("/web.img").unwrap()[5 * CHUNK + 100] ^= 1;
    let (chunk, chunks, offset) = (5, 9, 5 * CHUNK as u64);
    let cause = StoreCause::WrongChunk { chunk, chunks, offset, source: 0 };
    assert_eq!(failure(files), Outcome::Failed(cause));
}

#[test]
fn a_missing_image_is_told_by_its_status() {
    for (line, status) in [("404 Not Found", 404), ("403 Forbidden", 403)] {
        let server = Server::start(move |_| Reply::status(line));
        let outcome = Bed::new().run(wanted(&[server.url("/web.img")]));
        let cause = FetchCause::Status { status, retry_after: None };
        assert_eq!(outcome, Outcome::Failed(StoreCause::Fetch { source: 0, cause }));
    }
}

#[test]
fn a_manifest_that_is_no_json_or_too_large_is_refused() {
    let image = image(CHUNK);
    let cause = StoreCause::ManifestMalformed { source: 0 };
    assert_eq!(failure(with_manifest(&image, b"<html>no</html>".to_vec())), Outcome::Failed(cause));
    let bytes = 3 * MAX_BYTES;
    let cause = StoreCause::ManifestTooLarge { source: 0, bytes };
    assert_eq!(failure(with_manifest(&image, vec![b' '; bytes as usize])), Outcome::Failed(cause));
}

#[test]
fn a_manifest_of_another_image_is_refused() {
    let (image, other) = (image(3 * CHUNK), image(4 * CHUNK));
    let mut files = published(&other);
    files.insert("/web.img".into(), image.clone());
    let (said, found) = (other.len() as u64, image.len() as u64);
    let cause = StoreCause::ManifestOfAnotherImage { source: 0, said, found };
    assert_eq!(failure(files), Outcome::Failed(cause));
}

#[test]
fn a_manifest_for_another_kernel_is_refused() {
    let image = image(CHUNK);
    let other = Manifest { kernel: Some("5.0.0-other".into()), ..manifest(&image) };
    let required = Label::new("5.0.0-other").unwrap();
    let outcome = failure(with_manifest(&image, other.render().into_bytes()));
    assert_eq!(outcome, Outcome::Failed(StoreCause::Kernel { required }));
}

#[test]
fn a_chunk_list_that_the_manifest_does_not_vouch_for_is_refused() {
    let mut files = published(&image(3 * CHUNK));
    files.get_mut("/web.img.chunks").unwrap()[40] ^= 1;
    assert_eq!(failure(files), Outcome::Failed(StoreCause::ChunkList { source: 0 }));
}

#[test]
fn an_empty_image_is_called_empty() {
    assert_eq!(failure(bare(b"")), Outcome::Failed(StoreCause::Empty { source: 0 }));
    let mut files = published(&image(CHUNK));
    files.insert("/web.img".into(), vec![]);
    assert_eq!(failure(files), Outcome::Failed(StoreCause::Empty { source: 0 }));
}

#[test]
fn what_is_no_filesystem_is_found_out_by_its_first_chunk() {
    let mut page = b"<html>log in first</html>".to_vec();
    page.resize(30 * CHUNK, b' ');
    let server = Server::of(bare(&page));
    let mut bed = Bed::new();
    let outcome = bed.run(wanted(&[server.url("/web.img")]));
    assert_eq!(outcome, Outcome::Failed(StoreCause::NotAFilesystem { magic: *b"<htm" }));
    drop(bed);
    assert_eq!(failure(published(&page)), Outcome::Failed(StoreCause::NotAFilesystem { magic: *b"<htm" }));
}

#[test]
fn a_truncated_image_tells_what_is_missing() {
    let whole = image(5 * CHUNK);
    let (size, needed) = (4 * CHUNK as u64 + 1, whole.len() as u64);
    let cause = StoreCause::Truncated { size, needed };
    assert_eq!(failure(bare(&whole[..size as usize])), Outcome::Failed(cause.clone()));
    assert_eq!(failure(published(&whole[..size as usize])), Outcome::Failed(cause));
}

#[test]
fn a_wrong_hash_of_the_whole_tells_both_hashes() {
    let image = image(3 * CHUNK);
    let (expected, found) = (Sha256([7; 32]), Sha256::of(&image));
    let mut files = bare(&image);
    files.insert("/web.img.sha256".into(), format!("{expected}\n").into_bytes());
    assert_eq!(failure(files), Outcome::Failed(StoreCause::WrongHash { expected, found }));
    for files in [bare(&image), published(&image)] {
        let server = Server::of(files);
        let mut wanted = wanted(&[server.url("/web.img")]);
        wanted.sha256 = Some(expected);
        assert_eq!(Bed::new().run(wanted), Outcome::Failed(StoreCause::WrongHash { expected, found }));
    }
}

#[test]
fn a_lying_manifest_does_not_pass_for_the_operators_hash() {
    let (good, evil) = (image(3 * CHUNK), image(3 * CHUNK + 4096)[..3 * CHUNK].to_vec());
    let mut evil = evil;
    evil[..96].copy_from_slice(&good[..96]);
    let expected = Sha256::of(&good);
    let mut files = published(&evil);
    let lie = Manifest { sha256: expected, ..manifest(&evil) };
    files.insert("/web.img.manifest".into(), lie.render().into_bytes());
    let server = Server::of(files);
    let mut wanted = wanted(&[server.url("/web.img")]);
    wanted.sha256 = Some(expected);
    let found = Sha256::of(&evil);
    assert_eq!(Bed::new().run(wanted), Outcome::Failed(StoreCause::WrongHash { expected, found }));
}

#[test]
fn verification_that_is_required_is_not_done_without() {
    let server = Server::of(bare(&image(3 * CHUNK)));
    let mut wanted = wanted(&[server.url("/web.img")]);
    wanted.require_verified = true;
    assert_eq!(Bed::new().run(wanted), Outcome::Failed(StoreCause::Unverified));
    assert_eq!(server.requests("/web.img"), []);
}

#[test]
fn a_name_without_an_address_is_told_from_a_dead_server() {
    // A label of 64 letters cannot exist, so the resolver answers without asking anybody.
    let url = format!("http://{}/web.img", "a".repeat(64));
    let cause = StoreCause::Fetch { source: 0, cause: FetchCause::NameUnknown };
    assert_eq!(Bed::new().run(wanted(&[url])), Outcome::Failed(cause));
}

#[test]
fn an_encoding_nobody_asked_for_is_refused() {
    let image = image(CHUNK);
    let server = Server::start(move |request| match request.path.as_str() {
        "/web.img" => file(&image, request).header("Content-Encoding", "gzip"),
        _ => Reply::status("404 Not Found"),
    });
    let outcome = Bed::new().run(wanted(&[server.url("/web.img")]));
    let cause = StoreCause::Fetch { source: 0, cause: FetchCause::Protocol };
    assert_eq!(outcome, Outcome::Failed(cause));
}

/// Boots `files` with two keys packed, as many of which must have signed a manifest of version 7 or newer.
fn with_keys(files: BTreeMap<String, Vec<u8>>, keys: [&KeyPair; 2], needed: u8) -> Outcome {
    let lines = keys.map(|key| key.pk.to_base64());
    let named: Vec<_> = lines.iter().map(|line| (line.as_str(), line.as_bytes())).collect();
    let server = Server::of(files);
    let mut wanted = wanted(&[server.url("/web.img")]);
    wanted.anchors = Anchors::new(&named, Some(needed), Some(7)).unwrap();
    // None of these loosens what the keys demand.
    wanted.sha256 = Some(Sha256::of(&image(CHUNK)));
    Bed::new().run(wanted)
}

#[test]
fn with_keys_packed_a_manifest_counts_only_if_enough_of_them_signed_it() {
    let [ours, theirs, foreign] = [(); 3].map(|()| KeyPair::generate_unencrypted_keypair().unwrap());
    let id = |key: &KeyPair| Key::parse(&key.pk.to_base64()).unwrap().id();
    let image = image(CHUNK);
    let text = manifest(&image).render().into_bytes();
    let by = |key: &KeyPair, bytes: &[u8]| minisign::sign(None, &key.sk, bytes, None, None).unwrap().into_string();
    let boot = |signatures: Option<String>, needed| {
        let mut files = published(&image);
        files.extend(signatures.map(|text| ("/web.img.manifest.minisig".to_owned(), text.into_bytes())));
        with_keys(files, [&ours, &theirs], needed)
    };
    let refused = |fault| Outcome::Failed(StoreCause::Signature { source: 0, fault });
    assert_eq!(boot(None, 1), refused(SignatureFault::Missing));
    assert_eq!(boot(Some("untrusted comment: x\nnonsense\n".into()), 1), refused(SignatureFault::Unreadable));
    let stranger = SignatureFault::Foreign { keys: vec![id(&foreign)] };
    assert_eq!(boot(Some(by(&foreign, &text)), 1), refused(stranger));
    assert_eq!(boot(Some(by(&ours, b"{}")), 1), refused(SignatureFault::Altered { key: id(&ours) }));
    let one = SignatureFault::TooFew { keys: vec![id(&ours)], needed: 2 };
    assert_eq!(boot(Some(by(&ours, &text) + &by(&ours, &text) + &by(&foreign, &text)), 2), refused(one));
    let Outcome::Done(facts) = boot(Some(by(&theirs, &text)), 1) else { panic!("one is enough") };
    assert_eq!((facts.trust, facts.signers), (Trust::Signed, vec![id(&theirs)]));
    let Outcome::Done(facts) = boot(Some(by(&theirs, &text) + &by(&ours, &text)), 2) else { panic!("two are enough") };
    assert_eq!((facts.trust, facts.signers), (Trust::Signed, vec![id(&ours), id(&theirs)]));
    assert_eq!(facts.manifest, Some(Sha256::of(&text)));

    let old = Manifest { version: 6, ..manifest(&image) }.render();
    let mut files = with_manifest(&image, old.clone().into_bytes());
    files.insert("/web.img.manifest.minisig".into(), by(&ours, old.as_bytes()).into_bytes());
    let rollback = StoreCause::ManifestTooOld { source: 0, version: 6, floor: 7 };
    assert_eq!(with_keys(files, [&ours, &theirs], 1), Outcome::Failed(rollback));
}

#[test]
fn a_pinned_manifest_vouches_for_the_image_and_any_other_is_refused() {
    let image = image(3 * CHUNK);
    let right = Sha256::of(manifest(&image).render().as_bytes());
    let boot = |files: BTreeMap<String, Vec<u8>>, pin| {
        let server = Server::of(files);
        let mut wanted = wanted(&[server.url("/web.img")]);
        wanted.manifest = Some(pin);
        (Bed::new().run(wanted), server.requests("/web.img").len())
    };
    let (outcome, _) = boot(published(&image), right);
    let Outcome::Done(facts) = outcome else { panic!("{outcome:?}") };
    assert_eq!((facts.trust, facts.manifest), (Trust::Pinned, Some(right)));
    let expected = Sha256::of(b"another");
    let another = StoreCause::ManifestHash { source: 0, expected, found: right };
    assert_eq!(boot(published(&image), expected), (Outcome::Failed(another), 0));
    let none = StoreCause::ManifestMissing { source: 0 };
    assert_eq!(boot(bare(&image), right), (Outcome::Failed(none), 0));
}
