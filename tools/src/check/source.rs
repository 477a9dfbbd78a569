//! What the sources' answers come to.

use super::ask::{Answer, Document, Head};
use super::keys::Trusted;
use super::verdict::{About, Level, Verdict};
use crate::image::digest::list_hashes;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::Manifest;
use rootbeam_init::settings::Settings;
use rootbeam_init::settings::values::human;
use rootbeam_init::store::superblock::{self, SuperblockFacts, SuperblockFault};

const SOURCE: About = About::Source;

/// What is known of the image that would boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
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
}

/// What a source is held against.
pub struct Demands<'a> {
    /// What the operator asked for.
    pub settings: &'a Settings,
    /// The packed keys.
    pub trusted: &'a Trusted,
    /// The kernel that boots, where it is known.
    pub release: Option<&'a str>,
    /// Whether certificates are packed.
    pub certificates: bool,
}

/// A source that serves, what is to be said of it, and whether that is all good.
struct Good {
    image: Image,
    sentences: Vec<String>,
    warnings: Vec<String>,
}

/// Judges the answers, by URL in the order of the sources. With one that serves, the failures of the others are
/// warnings: the boot succeeds from it.
pub fn judge(answers: &[(String, Answer)], demands: &Demands<'_>) -> (Vec<Verdict>, Option<Image>) {
    let judged: Vec<_> = answers.iter().map(|(url, answer)| (url, one(url, answer, demands))).collect();
    let serves = judged.iter().any(|(_, result)| result.is_ok());
    let mut verdicts = Vec::new();
    let mut chosen: Option<Image> = None;
    for (url, result) in judged {
        match result {
            Err(text) if serves => verdicts.push(SOURCE.warning(format!("{url}: {text} The others serve."))),
            Err(text) => verdicts.push(SOURCE.failure(format!("{url}: {text}"))),
            Ok(Good { image, sentences, mut warnings }) => {
                match &chosen {
                    Some(first) if differ(first, &image) => {
                        warnings.push(format!("It has another image than {}: publish the same on both.", first.url));
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

fn one(url: &str, answer: &Answer, demands: &Demands<'_>) -> Result<Good, String> {
    let mut good = Vec::new();
    let mut warnings = Vec::new();
    let https = url.starts_with("https:");
    let tls = |error: &str| match https && !demands.certificates {
        true => format!("{error}; no certificate is packed: pack your authority's with `rootbeam pack --ca PEM`."),
        false => format!("{error}."),
    };
    let manifest = match &answer.manifest {
        Document::Here(bytes) => {
            let manifest = Manifest::parse(bytes).map_err(|refusal| {
                format!("the manifest is refused: {refusal}; make it anew with `rootbeam image manifest IMAGE`.")
            })?;
            Some((manifest, bytes))
        }
        Document::Absent => None,
        Document::Failed(error) => return Err(tls(error)),
    };
    let head = answer.head.as_ref().map_err(|error| {
        let missing = matches!(answer.manifest, Document::Absent);
        let manifest = if missing { " (and there is no manifest)" } else { "" };
        format!("{}: {error}{manifest}; put the image there, or correct rootbeam.image=.", answer.image)
    })?;
    let size = head.size.ok_or("the server does not tell the image's size; let it send Content-Length.")?;
    let superblock = superblock::inspect(&head.first, size).map_err(|fault| of_superblock(fault, head))?;
    good.push(format!("It has {} by {}.", human(size), if head.ranges { "ranges" } else { "one stream" }));
    if !head.ranges {
        warnings.push("The server knows no ranges, so a download that breaks off is read anew from its start.".into());
    }
    let sha256 = match &manifest {
        Some((manifest, bytes)) => {
            hold(manifest, answer, size, demands)?;
            good.push(vouched(manifest, bytes, answer, demands)?);
            Some(manifest.sha256)
        }
        None => unmanifested(answer, demands, &mut good, &mut warnings)?,
    };
    if let (Some(pinned), Some(found)) = (demands.settings.sha256, sha256)
        && pinned != found
    {
        return Err(format!("its SHA-256 is {found}, and rootbeam.sha256={pinned} asks for another."));
    }
    let image = Image { url: answer.image.clone(), size, sha256, superblock, ranges: head.ranges };
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
fn hold(manifest: &Manifest, answer: &Answer, size: u64, demands: &Demands<'_>) -> Result<(), String> {
    if manifest.size != size {
        return Err(format!(
            "the manifest is of an image of {} bytes, and {size} are there: publish both together.",
            manifest.size
        ));
    }
    match &answer.list {
        Document::Here(list)
            if list.len() as u64 == manifest.list_bytes() && list_hashes(list) == manifest.chunk_list => {}
        Document::Here(_) => {
            return Err("the chunk list is not the manifest's: publish image, manifest and chunks together.".into());
        }
        Document::Absent => return Err("it has no chunk list: put the file .chunks beside the image.".into()),
        Document::Failed(error) => return Err(format!("the chunk list could not be had: {error}.")),
    }
    match (&manifest.kernel, demands.release) {
        (Some(required), Some(release)) if required != release => {
            Err(format!("the image requires kernel {required}, and {release} boots: take that kernel and its modules."))
        }
        _ => Ok(()),
    }
}

/// By whom the manifest is vouched for, in a sentence.
fn vouched(manifest: &Manifest, bytes: &[u8], answer: &Answer, demands: &Demands<'_>) -> Result<String, String> {
    let (trusted, settings, version) = (demands.trusted, demands.settings, manifest.version);
    let found = Sha256::of(bytes);
    if let Some(pinned) = settings.manifest.filter(|pinned| *pinned != found) {
        return Err(format!(
            "the manifest's SHA-256 is {found}, and rootbeam.manifest=sha256:{pinned} asks for another."
        ));
    }
    if trusted.demands_signatures() {
        let signers = match &answer.signature {
            Document::Here(file) => trusted.signers(bytes, file),
            Document::Absent => Err(Trusted::unsigned()),
            Document::Failed(error) => Err(format!("its signature could not be had: {error}")),
        };
        let signers = signers.map_err(|fault| format!("the manifest does not count: {fault}."))?;
        return match trusted.floor_above(version) {
            Some(floor) => Err(format!("the manifest has version {version}, and none below {floor} boots.")),
            None => Ok(format!("Its manifest, version {version}, is signed by {signers}, whose key is packed.")),
        };
    }
    Ok(match (settings.manifest, settings.sha256) {
        (Some(_), _) => format!("Its manifest, version {version}, is the one that rootbeam.manifest= pins."),
        (None, Some(_)) => format!("Its manifest is of version {version}, and rootbeam.sha256= pins the image."),
        (None, None) => {
            format!("Its manifest, version {version}, guards against damage, and no key against the server.")
        }
    })
}

/// A source without a manifest: what else vouches for the image.
fn unmanifested(
    answer: &Answer,
    demands: &Demands<'_>,
    good: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Option<Sha256>, String> {
    const MAKE: &str = "make a manifest with `rootbeam image manifest IMAGE` and put it beside the image";
    if demands.trusted.demands_signatures() {
        return Err(format!("a key is packed, and there is no manifest: {MAKE}, signed."));
    }
    if demands.settings.manifest.is_some() {
        return Err(format!("rootbeam.manifest= pins a manifest, and there is none: {MAKE}."));
    }
    match (demands.settings.sha256, answer.checksum) {
        (Some(_), checksum) => {
            good.push("rootbeam.sha256= pins the image.".into());
            Ok(checksum)
        }
        (None, Some(checksum)) => {
            warnings.push(format!("Only a checksum file vouches for it, so damage is found at the very end: {MAKE}."));
            Ok(Some(checksum))
        }
        (None, None) if demands.settings.require_verified => {
            Err(format!("rootbeam.verify=require is set, and nothing vouches for the image: {MAKE}."))
        }
        (None, None) => {
            warnings.push(format!("The image is UNVERIFIED: {MAKE}."));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::digest;
    use crate::image::manifest::describe;
    use rootbeam_init::manifest::CHUNK_SIZE;

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
            signature: Document::Absent,
            list: Document::Here(digests.chunk_list()),
            checksum: None,
            image: URL.into(),
            head: Ok(Head { size: Some(4096), ranges: true, first: image }),
        }
    }

    /// Level and text of the judgement of such servers, under a command line.
    fn judged(answers: &[Answer], line: &str) -> Vec<String> {
        let (settings, _) = Settings::parse(b"", line.as_bytes());
        let trusted = Trusted::default();
        let demands = Demands { settings: &settings, trusted: &trusted, release: Some("6.1"), certificates: false };
        let answers: Vec<_> = answers.iter().map(|answer| (URL.to_owned(), answer.clone())).collect();
        judge(&answers, &demands).0.into_iter().map(|verdict| format!("{} {}", verdict.level, verdict.text)).collect()
    }

    #[test]
    fn each_thing_that_a_boot_refuses_is_a_failure_with_its_remedy() {
        assert!(judged(&[good()], "")[0].starts_with("ok http://a/web.squashfs: It has 4.0 KiB by ranges."));
        let size = |size| Ok(Head { size, ranges: true, first: erofs() });
        let html = Ok(Head { size: Some(6), ranges: true, first: b"<html>".to_vec() });
        for (answer, part) in [
            (Answer { manifest: Document::Here(b"{".to_vec()), ..good() }, "the manifest is refused"),
            (Answer { manifest: Document::Failed("refused".into()), ..good() }, "refused."),
            (Answer { list: Document::Absent, ..good() }, "it has no chunk list"),
            (Answer { list: Document::Here(vec![0; 32]), ..good() }, "the chunk list is not the manifest's"),
            (Answer { list: Document::Here(vec![0; 31]), ..good() }, "the chunk list is not the manifest's"),
            (Answer { list: Document::Failed("500".into()), ..good() }, "the chunk list could not be had: 500."),
            (Answer { head: Err("404".into()), ..good() }, "http://a/web.squashfs: 404; put the image there"),
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
        let bare = Answer { manifest: Document::Absent, list: Document::Absent, ..good() };
        let of = |line: &str| judged(std::slice::from_ref(&bare), line).remove(0);
        assert!(of("").starts_with("warning ") && of("").contains("UNVERIFIED"));
        assert!(of("rootbeam.verify=require").starts_with("failure "));
        let sums = Answer { checksum: Some(Sha256::of(&erofs())), ..bare.clone() };
        assert!(judged(&[sums], "rootbeam.verify=require")[0].contains("Only a checksum file vouches for it"));
    }

    #[test]
    fn sources_with_different_images_are_told_apart() {
        let other = Answer { manifest: Document::Absent, checksum: Some(Sha256([7; 32])), ..good() };
        assert!(judged(&[good(), other], "")[1].contains("It has another image than http://a/web.squashfs"));
    }

    #[test]
    fn a_kernel_that_the_image_does_not_want_is_a_failure() {
        let settings = Settings::default();
        let trusted = Trusted::default();
        let demands = Demands { settings: &settings, trusted: &trusted, release: Some("6.12"), certificates: false };
        let (verdicts, image) = judge(&[(URL.to_owned(), good())], &demands);
        assert!(verdicts[0].text.contains("the image requires kernel 6.1, and 6.12 boots"), "{verdicts:?}");
        assert_eq!(image, None);
    }
}
