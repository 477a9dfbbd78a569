//! What the sources' answers come to.

use super::ask::{Answer, Document, Head};
use super::keys;
use super::verdict::{About, Level, Verdict};
use crate::image::digest::list_hashes;
use rootbeam_init::digest::Sha256;
use rootbeam_init::label::Label;
use rootbeam_init::layers::{AskedBy, Order, Proofs};
use rootbeam_init::manifest::Manifest;
use rootbeam_init::messages::{FetchCause, SourceIndex, StoreCause, Trust};
use rootbeam_init::settings::source::{Source, public};
use rootbeam_init::settings::values::human;
use rootbeam_init::store::locate;
use rootbeam_init::store::superblock::{self, SuperblockFacts, SuperblockFault};

const SOURCE: About = About::Source;
const MAKE_ANEW: &str = "make it anew with `rootbeam image manifest IMAGE`";

/// Judges a server that the manifest of `image` names. It is one source more: whatever it answers, the others serve.
pub fn judge_named(url: &str, head: Result<Head, FetchCause>, image: &Image) -> Verdict {
    let order =
        Order { sources: Source::parse(url).into_iter().collect(), optional: false, asked_by: AskedBy::Manifest };
    let of = format!("{}, named by the manifest of the {}", public(url), image.what);
    match head {
        Ok(Head { size: Some(size), ranges, .. }) if size == image.size => {
            SOURCE.ok(format!("{of}: It has {} by {}.", human(size), if ranges { "ranges" } else { "one stream" }))
        }
        Ok(_) => SOURCE.warning(format!("{of}: It has another image: publish the same on all servers.")),
        Err(cause) => {
            let failure = order.failure(&StoreCause::Fetch { source: 0, cause }, "");
            SOURCE.warning(format!("{of}: {}; {}. The others serve.", failure.cause, failure.remedy))
        }
    }
}

/// What is known of an image that would boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `image`, or which layer it is.
    pub what: String,
    /// Where it is.
    pub url: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its hash, where something tells.
    pub sha256: Option<Sha256>,
    /// What its superblock says.
    pub superblock: SuperblockFacts,
    /// Whether parts of it can be asked for.
    pub ranges: bool,
    /// How well it is vouched for.
    pub trust: Trust,
    /// Whether a manifest was read.
    pub has_manifest: bool,
    /// The layers that its manifest names.
    pub layers: Vec<Label>,
    /// Where its manifest says that it is too.
    pub named: Vec<String>,
}

/// What a source is held against.
pub struct Demands<'a> {
    /// Which image is wanted, and from where.
    pub order: &'a Order,
    /// What it is held against.
    pub proofs: &'a Proofs,
    /// Whether one that nothing vouches for is refused.
    pub require_verified: bool,
    /// The kernel that boots, where it is known.
    pub release: Option<&'a str>,
}

impl Demands<'_> {
    /// What a source's answer fails with, in the words of a boot.
    fn failed(&self, source: usize, cause: &FetchCause) -> String {
        let source = SourceIndex::try_from(source).unwrap_or(SourceIndex::MAX);
        let failure = self.order.failure(&StoreCause::Fetch { source, cause: cause.clone() }, "");
        format!("{}; {}.", failure.cause, failure.remedy)
    }

    fn what(&self) -> String {
        if self.order.is_layer() { self.order.to_string() } else { "image".to_owned() }
    }
}

/// A source that serves, what is to be said of it, and whether that is all good.
struct Good {
    image: Image,
    sentences: Vec<String>,
    warnings: Vec<String>,
}

/// Judges the answers of the order's sources. With one that serves, the failures of the others are warnings: the boot
/// succeeds from it.
pub fn judge(answers: &[Answer], demands: &Demands<'_>) -> (Vec<Verdict>, Option<Image>) {
    let order = demands.order;
    if order.optional && answers.iter().all(Answer::is_gone) {
        return (vec![SOURCE.ok(format!("{order}: absent, and optional."))], None);
    }
    let layer = if order.is_layer() { "layer " } else { "" };
    let named = |(at, answer)| {
        let url = order.sources.get(at).map(ToString::to_string).unwrap_or_default();
        (format!("{layer}{url}"), one(at, answer, demands))
    };
    let judged: Vec<_> = answers.iter().enumerate().map(named).collect();
    let serves = judged.iter().any(|(_, result)| result.is_ok());
    let mut verdicts = Vec::new();
    let mut chosen: Option<Image> = None;
    for (url, result) in judged {
        match result {
            Err(text) if serves => {
                verdicts.push(SOURCE.warning(format!("{url}: {} The others serve.", order.worded(&text))));
            }
            Err(text) => verdicts.push(SOURCE.failure(format!("{url}: {}", order.worded(&text)))),
            Ok(Good { image, sentences, mut warnings }) => {
                match &chosen {
                    Some(first) if differ(first, &image) => {
                        warnings.push(format!(
                            "It has another image than {}: publish the same on both.",
                            public(&first.url)
                        ));
                    }
                    Some(_) => {}
                    None => chosen = Some(image),
                }
                let level = if warnings.is_empty() { Level::Ok } else { Level::Warning };
                let text = format!("{url}: {}", [sentences, warnings].concat().join(" "));
                verdicts.push(Verdict { level, about: SOURCE, text });
            }
        }
    }
    (verdicts, chosen)
}

fn differ(a: &Image, b: &Image) -> bool {
    a.size != b.size || a.sha256.zip(b.sha256).is_some_and(|(a, b)| a != b)
}

fn one(source: usize, answer: &Answer, demands: &Demands<'_>) -> Result<Good, String> {
    let mut good = Vec::new();
    let mut warnings = Vec::new();
    let manifest = match &answer.manifest {
        Document::Here(bytes) => {
            let manifest = Manifest::parse(bytes)
                .map_err(|refusal| format!("the manifest is refused: {refusal}; {MAKE_ANEW}."))?;
            Some((manifest, bytes))
        }
        Document::Unasked => None,
        Document::TooLarge(limit) => {
            return Err(format!("its manifest has more than the {limit} bytes that are read; {MAKE_ANEW}."));
        }
        Document::Failed(cause) if cause.is_absence() && answer.head.is_some() => None,
        Document::Failed(cause @ FetchCause::Status { .. }) => {
            return Err(format!("its manifest: {}", demands.failed(source, cause)));
        }
        Document::Failed(cause) => return Err(demands.failed(source, cause)),
    };
    let head = answer.head.as_ref().ok_or("only its manifest knows its name, and there is none.")?;
    let head = head.as_ref().map_err(|cause| {
        let missing = if manifest.is_none() { "there is no manifest, and " } else { "" };
        format!("{missing}{}: {}", public(&answer.image), demands.failed(source, cause))
    })?;
    let size = head.size.ok_or("the server does not tell the image's size; let it send Content-Length.")?;
    let superblock = superblock::inspect(&head.first, size).map_err(|fault| of_superblock(fault, head))?;
    good.push(format!("It has {} by {}.", human(size), if head.ranges { "ranges" } else { "one stream" }));
    if !head.ranges {
        warnings.push("The server knows no ranges, so a download that breaks off is read anew from its start.".into());
    }
    let (trust, sha256) = match &manifest {
        Some((manifest, bytes)) => {
            hold(source, manifest, answer, size, demands)?;
            let (sentence, trust) = vouched(source, manifest, bytes, answer, demands)?;
            good.push(sentence);
            (trust, Some(manifest.sha256))
        }
        None => unmanifested(answer, demands, &mut good, &mut warnings)?,
    };
    if let (Some(pinned), Some(found)) = (demands.proofs.sha256, sha256)
        && pinned != found
    {
        return Err(format!("its SHA-256 is {found}, and rootbeam.sha256={pinned} asks for another."));
    }
    let image = Image {
        what: demands.what(),
        url: answer.image.clone(),
        size,
        sha256,
        superblock,
        ranges: head.ranges,
        trust,
        has_manifest: manifest.is_some(),
        layers: manifest.as_ref().and_then(|(manifest, _)| manifest.layer_names()).unwrap_or_default(),
        named: manifest
            .map(|(manifest, _)| locate::named(&manifest.sources, &manifest.name).collect())
            .unwrap_or_default(),
    };
    Ok(Good { image, sentences: good, warnings })
}

fn of_superblock(fault: SuperblockFault, head: &Head) -> String {
    let whole = match fault {
        SuperblockFault::Empty | SuperblockFault::Truncated { .. } => "copy it to the server again",
        _ if head.first.starts_with(b"<") => "it looks like a web page: correct rootbeam.image=",
        _ => "point rootbeam.image= at a squashfs or erofs image",
    };
    format!("the image is refused: {fault}; {whole}.")
}

/// The manifest against image, chunk list and kernel.
fn hold(source: usize, manifest: &Manifest, answer: &Answer, size: u64, demands: &Demands<'_>) -> Result<(), String> {
    if manifest.size != size {
        return Err(format!(
            "the manifest is of an image of {} bytes, and {size} are there: publish both together.",
            manifest.size
        ));
    }
    match &answer.list {
        Document::Here(list)
            if list.len() as u64 == manifest.list_bytes() && list_hashes(list) == manifest.chunk_list => {}
        Document::Here(_) | Document::TooLarge(_) => {
            return Err("the chunk list is not the manifest's: publish image, manifest and chunks together.".into());
        }
        Document::Failed(cause) if !cause.is_absence() => {
            return Err(format!("its chunk list: {}", demands.failed(source, cause)));
        }
        _ => return Err("it has no chunk list: put the file .chunks beside the image.".into()),
    }
    match (&manifest.kernel, demands.release) {
        (Some(required), Some(release)) if required != release => {
            Err(format!("the image requires kernel {required}, and {release} boots: take that kernel and its modules."))
        }
        _ => Ok(()),
    }
}

/// By whom the manifest is vouched for, in a sentence.
fn vouched(
    source: usize,
    manifest: &Manifest,
    bytes: &[u8],
    answer: &Answer,
    demands: &Demands<'_>,
) -> Result<(String, Trust), String> {
    let (proofs, version) = (demands.proofs, manifest.version);
    let found = Sha256::of(bytes);
    if let Some(pinned) = proofs.manifest.filter(|pinned| *pinned != found) {
        return Err(format!(
            "the manifest's SHA-256 is {found}, and rootbeam.manifest=sha256:{pinned} asks for another."
        ));
    }
    if proofs.anchors.demand_signatures() {
        let signers = match &answer.signature {
            Document::Here(file) => keys::signers(&proofs.anchors, bytes, file),
            Document::Failed(cause) if !cause.is_absence() => {
                return Err(format!("its signature: {}", demands.failed(source, cause)));
            }
            Document::TooLarge(limit) => Err(format!("its signature has more than the {limit} bytes that are read")),
            _ => Err(keys::unsigned()),
        };
        let signers = signers.map_err(|fault| format!("the manifest does not count: {fault}."))?;
        return match proofs.anchors.floor_above(version) {
            Some(floor) => Err(format!("the manifest has version {version}, and none below {floor} boots.")),
            None => {
                let text = format!("Its manifest, version {version}, is signed by {signers}, whose key is packed.");
                Ok((text, Trust::Signed))
            }
        };
    }
    Ok(match (proofs.manifest, proofs.sha256) {
        (Some(_), _) => {
            (format!("Its manifest, version {version}, is the one that rootbeam.manifest= pins."), Trust::Pinned)
        }
        (None, Some(_)) => {
            (format!("Its manifest is of version {version}, and rootbeam.sha256= pins the image."), Trust::Pinned)
        }
        (None, None) => {
            let text =
                format!("Its manifest, version {version}, guards against damage, and no key against the server.");
            (text, Trust::Checksummed)
        }
    })
}

/// A source without a manifest: what else vouches for the image.
fn unmanifested(
    answer: &Answer,
    demands: &Demands<'_>,
    good: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<(Trust, Option<Sha256>), String> {
    const MAKE: &str = "make a manifest with `rootbeam image manifest IMAGE` and put it beside the image";
    if demands.proofs.anchors.demand_signatures() {
        return Err(format!("a key is packed, and there is no manifest: {MAKE}, signed."));
    }
    if demands.proofs.manifest.is_some() {
        return Err(format!("rootbeam.manifest= pins a manifest, and there is none: {MAKE}."));
    }
    match (demands.proofs.sha256, answer.checksum) {
        (Some(_), checksum) => {
            good.push("rootbeam.sha256= pins the image.".into());
            Ok((Trust::Pinned, checksum))
        }
        (None, Some(checksum)) => {
            warnings.push(format!("Only a checksum file vouches for it, so damage is found at the very end: {MAKE}."));
            Ok((Trust::Checksummed, Some(checksum)))
        }
        (None, None) if demands.require_verified => {
            Err(format!("rootbeam.verify=require is set, and nothing vouches for the image: {MAKE}."))
        }
        (None, None) => {
            warnings.push(format!("The image is UNVERIFIED: {MAKE}."));
            Ok((Trust::Unverified, None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::digest;
    use crate::image::manifest::describe;
    use rootbeam_init::manifest::CHUNK_SIZE;
    use rootbeam_init::settings::Settings;
    use rootbeam_init::trust::Anchors;

    const URL: &str = "http://a/web.squashfs";

    /// An erofs of one block, which is nothing but its superblock.
    fn erofs() -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
        image[1036] = 12;
        image[1060] = 1;
        image
    }

    /// A server that has the image with manifest and chunk list.
    fn good() -> Answer {
        let image = erofs();
        let digests = digest(image.as_slice(), CHUNK_SIZE, |_| ()).unwrap();
        let manifest = describe("web.squashfs", &digests, Some("6.1".into()), 3, 0, vec![]);
        Answer {
            manifest: Document::Here(manifest.render().into_bytes()),
            signature: Document::Unasked,
            list: Document::Here(digests.chunk_list()),
            checksum: None,
            image: URL.into(),
            head: Some(Ok(Head { size: Some(4096), ranges: true, first: image })),
        }
    }

    /// Level and text of the judgement of such servers, under a command line.
    fn judged(answers: &[Answer], line: &str) -> Vec<String> {
        let (settings, _) = Settings::parse(b"", line.as_bytes());
        let order = Order { sources: vec![Source::parse(URL).unwrap(); answers.len()], ..Order::image(&settings) };
        told(answers, &order, &settings)
    }

    fn told(answers: &[Answer], order: &Order, settings: &Settings) -> Vec<String> {
        let proofs = order.proofs(settings, Anchors::default());
        let require_verified = settings.require_verified;
        let demands = Demands { order, proofs: &proofs, require_verified, release: Some("6.1") };
        judge(answers, &demands).0.into_iter().map(|verdict| format!("{} {}", verdict.level, verdict.text)).collect()
    }

    /// The server has no such file.
    fn no() -> Document {
        Document::Failed(status(404))
    }

    fn status(status: u16) -> FetchCause {
        FetchCause::Status { status, retry_after: None }
    }

    #[test]
    fn each_thing_that_a_boot_refuses_is_a_failure_with_its_remedy() {
        assert!(judged(&[good()], "")[0].starts_with("ok http://a/web.squashfs: It has 4.0 KiB by ranges."));
        let size = |size| Some(Ok(Head { size, ranges: true, first: erofs() }));
        let html = Some(Ok(Head { size: Some(6), ranges: true, first: b"<html>".to_vec() }));
        for (answer, part) in [
            (Answer { manifest: Document::Here(b"{".to_vec()), ..good() }, "the manifest is refused"),
            (
                Answer { manifest: Document::Failed(FetchCause::Refused), ..good() },
                "the server refused the connection; start",
            ),
            (Answer { manifest: Document::Failed(status(500)), ..good() }, "its manifest: the server answered 500"),
            (Answer { manifest: Document::TooLarge(7), ..good() }, "its manifest has more than the 7 bytes"),
            (Answer { list: no(), ..good() }, "it has no chunk list"),
            (Answer { list: Document::Here(vec![0; 32]), ..good() }, "the chunk list is not the manifest's"),
            (Answer { list: Document::Here(vec![0; 31]), ..good() }, "the chunk list is not the manifest's"),
            (Answer { list: Document::Failed(status(500)), ..good() }, "its chunk list: the server answered 500"),
            (
                Answer { head: Some(Err(status(404))), ..good() },
                "http://a/web.squashfs: the server answered 404 Not Found; correct the path in rootbeam.image=, or put",
            ),
            (Answer { head: size(None), ..good() }, "the server does not tell the image's size"),
            (Answer { head: size(Some(4095)), ..good() }, "it has 4095 bytes, its filesystem needs 4096"),
            (
                Answer { head: size(Some(4097)), ..good() },
                "the manifest is of an image of 4096 bytes, and 4097 are there",
            ),
            (Answer { head: size(Some(0)), ..good() }, "the image is refused: it is empty; copy it"),
            (Answer { head: html, ..good() }, "it looks like a web page"),
        ] {
            let found = judged(std::slice::from_ref(&answer), "");
            assert!(found[0].starts_with("failure ") && found[0].contains(part), "no {part:?} in {found:?}");
            let beside = judged(&[answer, good()], "");
            assert!(beside[0].starts_with("warning ") && beside[1].starts_with("ok "), "{beside:?}");
        }
    }

    #[test]
    fn the_command_line_is_held_against_the_image() {
        let pin = |hash: Sha256| judged(&[good()], &format!("rootbeam.sha256={hash}")).remove(0);
        assert!(pin(Sha256::of(&erofs())).ends_with("and rootbeam.sha256= pins the image."));
        assert!(pin(Sha256([7; 32])).contains("asks for another"));
        let bare = Answer { manifest: no(), list: Document::Unasked, ..good() };
        let of = |line: &str| judged(std::slice::from_ref(&bare), line).remove(0);
        assert!(of("").starts_with("warning ") && of("").contains("UNVERIFIED"));
        assert!(of("rootbeam.verify=require").starts_with("failure "));
        let sums = Answer { checksum: Some(Sha256::of(&erofs())), ..bare.clone() };
        assert!(judged(&[sums], "rootbeam.verify=require")[0].contains("Only a checksum file vouches for it"));
    }

    #[test]
    fn sources_with_different_images_are_told_apart() {
        let other = Answer { manifest: no(), checksum: Some(Sha256([7; 32])), ..good() };
        assert!(judged(&[good(), other], "")[1].contains("It has another image than http://a/web.squashfs"));
    }

    #[test]
    fn a_layer_is_absent_only_where_it_may_be_and_every_server_says_so() {
        let source = Source::parse("http://a/site.squashfs").unwrap();
        let layer = |optional| Order { sources: vec![source.clone(); 2], optional, asked_by: AskedBy::Layer };
        let judged = |optional, causes: [FetchCause; 2]| {
            let missing = |cause| Answer { manifest: no(), head: Some(Err(cause)), ..good() };
            told(&causes.map(missing), &layer(optional), &Settings::default())
        };
        let gone = [status(404), status(410)];
        assert_eq!(judged(true, gone.clone()), ["ok layer http://a/site.squashfs: absent, and optional."]);
        for (optional, causes) in [(false, gone), (true, [status(404), status(403)])] {
            let found = judged(optional, causes);
            assert!(found.iter().all(|line| line.starts_with("failure layer http://a/site.squashfs: ")), "{found:?}");
            assert!(found[0].contains("correct the path in rootbeam.layer=, or put the file there"), "{found:?}");
        }
        // The hash of the command line is the image's.
        let settings = Settings { sha256: Some(Sha256([7; 32])), ..Settings::default() };
        let found = told(&[good()], &Order { sources: vec![source.clone()], ..layer(false) }, &settings);
        assert!(found[0].starts_with("ok layer http://a/site.squashfs: It has 4.0 KiB"), "{found:?}");
    }

    #[test]
    fn a_kernel_that_the_image_does_not_want_is_a_failure() {
        let settings = Settings { image: vec![Source::parse(URL).unwrap()], ..Settings::default() };
        let (order, proofs) = (Order::image(&settings), Proofs::default());
        let demands = Demands { order: &order, proofs: &proofs, require_verified: false, release: Some("6.12") };
        let (verdicts, image) = judge(&[good()], &demands);
        assert!(verdicts[0].text.contains("the image requires kernel 6.1, and 6.12 boots"), "{verdicts:?}");
        assert_eq!(image, None);
    }
}
