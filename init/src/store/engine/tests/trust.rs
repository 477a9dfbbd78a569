//! What a manifest must satisfy before it counts.

use super::*;
use crate::trust::SignatureFault;

/// What an archive with one packed key trusts, and a signature file by that key of `manifest`.
pub fn one_key() -> (Anchors, impl Fn(&[u8]) -> Vec<u8>) {
    let minisign::KeyPair { pk, sk } = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let anchors = Anchors::new(&[("web.pub", pk.to_base64().as_bytes())], None, Some(1)).unwrap();
    (anchors, move |manifest| minisign::sign(None, &sk, manifest, None, None).unwrap().into_string().into_bytes())
}

#[test]
fn a_signed_manifest_is_read_only_after_its_signature() {
    let (anchors, sign) = one_key();
    let (signers, floor) = (vec![anchors.keys()[0].id()], 1);
    let boot = |document: Vec<u8>, signature: Vec<u8>| {
        let mut wanted = wanted(&["http://a/web.img"]);
        // Neither of these vouches for what a key is to vouch for.
        wanted.sha256 = Some(Sha256([9; 32]));
        wanted.anchors = anchors.clone();
        let mut run = Run::new(wanted);
        run.on(Event::Fetcher);
        loop {
            assert_eq!(urls(&run.document(document.clone())), ["http://a/web.img.manifest.minisig"]);
            let said = news(&run.document(signature.clone()));
            // It may have been replaced meanwhile; so it is asked for again, but not for ever.
            if !matches!(said[..], [StoreNews::Trouble { cause: FetchCause::Protocol, .. }]) {
                return said;
            }
            run.now += 10_000;
            run.on(Event::Timer);
        }
    };
    let failed = |cause| [StoreNews::Failed(cause)];
    let altered = failed(StoreCause::Signature { source: 0, fault: SignatureFault::Altered { key: signers[0] } });
    let garbage = b"<html>".to_vec();
    assert_eq!(boot(garbage.clone(), sign(b"something else")), altered);
    assert_eq!(boot(garbage.clone(), sign(&garbage)), failed(StoreCause::ManifestMalformed { source: 0 }));
    assert_eq!(boot(manifest(), sign(b"something else")), altered);
    assert_eq!(boot(manifest(), sign(&manifest())), [StoreNews::Size { bytes: SIZE }]);
    let old = String::from_utf8(manifest()).unwrap().replace("\"version\": 1", "\"version\": 0").into_bytes();
    assert_eq!(boot(old.clone(), sign(&old)), failed(StoreCause::ManifestTooOld { source: 0, version: 0, floor }));
}

#[test]
fn a_pinned_manifest_is_the_only_one_and_needs_its_signature_all_the_same() {
    let boot = |pin: &[u8], anchors: Anchors, document: Option<Vec<u8>>| {
        let mut wanted = wanted(&["http://a/web.img"]);
        wanted.manifest = Some(Sha256::of(pin));
        wanted.anchors = anchors;
        let mut run = Run::new(wanted);
        run.on(Event::Fetcher);
        match document {
            Some(document) => run.document(document),
            None => run.failed(NOT_FOUND),
        }
    };
    let nobody = Anchors::default;
    let failed = |cause| [Action::News(StoreNews::Failed(cause))];
    let another =
        StoreCause::ManifestHash { source: 0, expected: Sha256::of(&manifest()), found: Sha256::of(b"<html>") };
    assert_eq!(boot(&manifest(), nobody(), Some(b"<html>".to_vec())), failed(another.clone()));
    assert_eq!(boot(&manifest(), one_key().0, Some(b"<html>".to_vec())), failed(another));
    assert_eq!(boot(&manifest(), nobody(), None), failed(StoreCause::ManifestMissing { source: 0 }));
    let size = [Action::News(StoreNews::Size { bytes: SIZE })];
    assert_eq!(boot(&manifest(), nobody(), Some(manifest())), size);
    let asks = boot(&manifest(), one_key().0, Some(manifest()));
    assert_eq!(urls(&asks), ["http://a/web.img.manifest.minisig"]);
}

#[test]
fn what_is_wrong_with_one_sources_manifest_tells_more_than_that_another_has_none() {
    let mut wanted = wanted(&["http://a/web.img", "http://b/web.img"]);
    wanted.anchors = one_key().0;
    let mut run = Run::new(wanted);
    run.on(Event::Fetcher);
    run.document(manifest());
    assert_eq!(urls(&run.failed(NOT_FOUND)), ["http://b/web.img.manifest"]);
    let cause = StoreCause::Signature { source: 0, fault: SignatureFault::Missing };
    assert_eq!(news(&run.failed(NOT_FOUND)), [StoreNews::Failed(cause)]);
}

#[test]
fn a_demanded_manifest_is_waited_for_while_it_may_still_come() {
    let pinned = |wanted: &mut Wanted| wanted.manifest = Some(Sha256::of(&manifest()));
    let signed = |wanted: &mut Wanted| wanted.anchors = one_key().0;
    for demand in [&pinned as &dyn Fn(&mut Wanted), &signed] {
        let mut wanted = wanted(&["http://a/web.img", "http://b/web.img"]);
        demand(&mut wanted);
        let mut run = Run::new(wanted);
        run.on(Event::Fetcher);
        run.failed(FetchCause::Refused);
        run.failed(NOT_FOUND);
        let mut asked = [0, 0];
        for _ in 0..20 {
            run.now += 40_000;
            let mut actions = run.on(Event::Timer);
            while let Some(url) = urls(&actions).pop() {
                let (source, cause) = match url.as_str() {
                    "http://a/web.img.manifest" => (0, FetchCause::Refused),
                    "http://b/web.img.manifest" => (1, NOT_FOUND),
                    other => panic!("{other}"),
                };
                asked[source] += 1;
                actions = run.failed(cause);
                assert!(!news(&actions).iter().any(|news| matches!(news, StoreNews::Failed(_))), "{actions:?}");
            }
        }
        // The one that has none is looked at again after a minute.
        assert_eq!(asked, [20, 10]);
    }
}
