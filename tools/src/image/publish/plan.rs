//! What a publication writes and removes, and in what order: facts in, steps out.

use super::super::digest::Digests;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{self, Manifest, is_file_name};
use rootbeam_init::trust::{self, SUFFIX as SIGNATURE};
use std::collections::BTreeMap;
use std::fmt;

/// The manifest that nodes are pointed at.
pub const LATEST: &str = "latest.manifest";
/// Digits of the image's SHA-256 in its published name.
const DIGITS: usize = 16;

/// What is to be published.
pub struct New<'a> {
    /// File name of the image.
    pub name: &'a str,
    /// Its digests.
    pub digests: &'a Digests,
    /// The manifest beside it.
    pub manifest: Option<Source>,
    /// The signature beside that.
    pub signature: Option<Vec<u8>>,
}

/// A manifest beside the image.
pub struct Source {
    /// Its bytes, which a signature may cover.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// The version.
    pub version: Option<u64>,
    /// How many versions stay beside the latest.
    pub keep: usize,
    /// The date of a new manifest, seconds since 1970.
    pub date: u64,
    /// The names only, and not the latest.
    pub stage: bool,
    /// Whether an unsigned image may follow a signed one.
    pub unsigned: bool,
}

/// What lies in the folder.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// Every file name.
    pub names: Vec<String>,
    /// Contents of manifests, signatures and chunk lists.
    pub small: BTreeMap<String, Vec<u8>>,
}

impl Folder {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|other| other == name)
    }

    /// The manifest that nodes boot by now.
    fn latest(&self) -> Result<Option<Manifest>, Refusal> {
        let parse = |bytes: &Vec<u8>| Manifest::parse(bytes).map_err(Refusal::Latest);
        self.small.get(LATEST).map(parse).transpose()
    }

    /// Every manifest by the name of its file.
    fn manifests(&self) -> impl Iterator<Item = (&String, Manifest)> {
        self.small.iter().filter_map(|(file, bytes)| Some((file, Manifest::parse(bytes).ok()?)))
    }

    /// The publications of all images: manifests under the immutable name of their image, the oldest first. Other files
    /// are no business of ours.
    fn versions(&self) -> Vec<Manifest> {
        let own = |(file, manifest): (&String, Manifest)| {
            (own_manifest(&manifest.name) == *file && family(&manifest.name, &manifest.sha256).is_some())
                .then_some(manifest)
        };
        let mut versions: Vec<Manifest> = self.manifests().filter_map(own).collect();
        versions.sort_by_key(|manifest| manifest.version);
        versions
    }
}

/// One change of the folder. `Display` is the line of a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The image under its immutable name.
    Image(String),
    /// A file under a name that belongs to that image.
    File(String, Vec<u8>),
    /// A file that takes the place of another under the name of the latest.
    Swap(String, Vec<u8>),
    /// A file goes.
    Remove(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(name) | Self::File(name, _) => write!(f, "put {name}"),
            Self::Swap(name, _) => write!(f, "swap {name}"),
            Self::Remove(name) => write!(f, "remove {name}"),
        }
    }
}

/// What will be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The manifest.
    pub manifest: Manifest,
    /// Whether it is signed.
    pub signed: bool,
    /// The changes, in order; none where all is as it should be.
    pub steps: Vec<Step>,
}

/// Why nothing is published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "{0} cannot be published under that name: use at most 160 letters, digits and . _ + ~ -, not beginning with a \
         dot"
    )]
    Name(String),
    #[error("the image is not the one of the manifest beside it: run `rootbeam image manifest` again, or remove it")]
    Stale,
    #[error("{LATEST} cannot be counted on from: {0}. Repair or remove it")]
    Latest(manifest::Refusal),
    #[error(
        "version {wanted} does not follow version {latest}, which is published: nodes never go back; say --version {} \
         or more, or leave --version out",
        latest.saturating_add(1)
    )]
    Version { wanted: u64, latest: u64 },
    #[error("the published version is the last that there is")]
    NoVersion,
    #[error(
        "the signature covers a manifest that names {name}, and published names are immutable: give --sign-key KEY; or, \
         where the key is elsewhere, publish with --stage, sign the manifest that it prints, and publish that image"
    )]
    SignedName { name: String },
    #[error(
        "its signature is of version {signed}, and of this publication, version {wanted}, there is none, so no node with \
         a key would boot it: give --sign-key KEY; or, where the key is elsewhere, publish with --stage --unsigned \
         --version {wanted}, sign the manifest that it prints, and publish that image"
    )]
    SignedVersion { signed: u64, wanted: u64 },
    #[error(
        "the published image is signed and this one is not, so no node with a key would boot it: give --sign-key KEY; or, \
         where the key is elsewhere, publish with --stage, sign the manifest that it prints, and publish that image; or \
         say --unsigned"
    )]
    Unsigned,
    #[error(
        "its manifest names the layer {0}, which is not in the folder, so no boot would find it: publish the layer \
         first, with --stage, or name a file that is there by `rootbeam image manifest --layer`"
    )]
    Layer(String),
    #[error("no boot would accept this manifest: {0}")]
    Manifest(manifest::Refusal),
}

/// The name under which an image of that hash is published: `web.squashfs` becomes `web-0123456789abcdef.squashfs`.
/// A name that is such a one already stays.
pub fn immutable_name(name: &str, sha256: &Sha256) -> String {
    if family(name, sha256).is_some() {
        return name.to_owned();
    }
    let (stem, extension) = split(name);
    format!("{stem}-{}{extension}", digits(sha256))
}

/// What the versions of an image have in common: their name before the hash; none where it is not the image's own.
fn family<'a>(name: &'a str, sha256: &Sha256) -> Option<&'a str> {
    split(name).0.strip_suffix(&digits(sha256))?.strip_suffix('-')
}

/// The file of an image's own manifest.
fn own_manifest(name: &str) -> String {
    format!("{name}{}", manifest::SUFFIX)
}

/// Whether a name looks like a published one, of whatever image.
pub fn looks_immutable(name: &str) -> bool {
    let tail = split(name).0.rsplit_once('-').map_or("", |(_, tail)| tail);
    tail.len() == DIGITS && tail.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn split(name: &str) -> (&str, &str) {
    match name.rfind('.').filter(|dot| *dot > 0) {
        Some(dot) => name.split_at(dot),
        None => (name, ""),
    }
}

fn digits(sha256: &Sha256) -> String {
    sha256.to_string().chars().take(DIGITS).collect()
}

/// The manifest that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What it says.
    pub manifest: Manifest,
    /// Its bytes, which a signature covers.
    pub bytes: Vec<u8>,
}

/// Chooses the manifest for the publication of `new` in `folder`.
pub fn choose(new: &New<'_>, wishes: Wishes, folder: &Folder) -> Result<Chosen, Refusal> {
    let name = immutable_name(new.name, &new.digests.sha256);
    // Room for the suffixes of what lies beside it, within what a URL and a file name may have.
    if !is_file_name(&name) || name.len() > 180 {
        return Err(Refusal::Name(new.name.to_owned()));
    }
    if new.manifest.as_ref().is_some_and(|source| source.manifest.sha256 != new.digests.sha256) {
        return Err(Refusal::Stale);
    }
    let latest = folder.latest()?;
    let (manifest, bytes) = described(new, name, wishes, folder, latest.as_ref())?;
    if let Some(layer) = manifest.layers.iter().find(|layer| !folder.has(layer)) {
        return Err(Refusal::Layer(layer.clone()));
    }
    Ok(Chosen { manifest, bytes })
}

/// Plans the publication of `new` in `folder` by the manifest that was chosen for it, and the signature that was `made`
/// of that where one was.
pub fn plan(
    new: &New<'_>,
    chosen: Chosen,
    made: Option<Vec<u8>>,
    wishes: Wishes,
    folder: &Folder,
) -> Result<Plan, Refusal> {
    let Chosen { manifest, bytes } = chosen;
    let name = &manifest.name;
    let own = own_manifest(name);
    let own_signature = format!("{own}{SIGNATURE}");
    let latest_signature = format!("{LATEST}{SIGNATURE}");
    // Beside the image, or where the same manifest was signed in the folder.
    let beside = new.signature.as_ref().filter(|_| new.manifest.as_ref().is_some_and(|source| source.bytes == bytes));
    let published = folder.small.get(&own_signature).filter(|_| folder.small.get(&own) == Some(&bytes));
    let signature = made.or_else(|| beside.or(published).cloned());
    if signature.is_none() && !wishes.unsigned {
        let source = new.manifest.as_ref().filter(|_| new.signature.is_some() && !wishes.stage);
        let of_version = |signed| Refusal::SignedVersion { signed, wanted: manifest.version };
        if folder.has(&own_signature) {
            let signed = folder.small.get(&own).and_then(|bytes| Manifest::parse(bytes).ok());
            return Err(signed.map_or(Refusal::Unsigned, |signed| of_version(signed.version)));
        }
        match source.map(|source| &source.manifest) {
            Some(signed) if signed.name == *name => return Err(of_version(signed.version)),
            Some(_) => return Err(Refusal::SignedName { name: new.name.to_owned() }),
            None if folder.has(&latest_signature) && !wishes.stage => return Err(Refusal::Unsigned),
            None => {}
        }
    }

    let mut steps = Vec::new();
    let put = |steps: &mut Vec<Step>, step: fn(String, Vec<u8>) -> Step, name: &str, bytes: &[u8]| {
        if folder.small.get(name).map(Vec::as_slice) != Some(bytes) {
            steps.push(step(name.to_owned(), bytes.to_vec()));
        }
    };
    let at = |name: &str| folder.small.get(name).map(Vec::as_slice).unwrap_or_default();
    let remove = |steps: &mut Vec<Step>, name: &str| {
        if folder.has(name) {
            steps.push(Step::Remove(name.to_owned()));
        }
    };
    if !folder.has(name) {
        steps.push(Step::Image(name.clone()));
    }
    put(&mut steps, Step::File, &format!("{name}{}", manifest::CHUNKS_SUFFIX), &new.digests.chunk_list());
    match &signature {
        Some(signature) => put(&mut steps, Step::File, &own_signature, &followed(signature, at(&own_signature))),
        // Before its manifest goes: beside the new one it would be taken for that one's.
        None => remove(&mut steps, &own_signature),
    }
    put(&mut steps, Step::File, &own, &bytes);
    if !wishes.stage {
        if let Some(signature) = &signature {
            put(&mut steps, Step::Swap, &latest_signature, &followed(signature, at(&latest_signature)));
        }
        put(&mut steps, Step::Swap, LATEST, &bytes);
        if signature.is_none() {
            remove(&mut steps, &latest_signature);
        }
        steps.extend(outdated(folder, &manifest, wishes.keep));
    }
    Ok(Plan { manifest, signed: signature.is_some(), steps })
}

/// The manifest to publish: the one beside the image where it has the published name and may be the latest, that of the
/// folder where it says the same but for version and date and may be the latest, else a new one.
fn described(
    new: &New<'_>,
    name: String,
    wishes: Wishes,
    folder: &Folder,
    latest: Option<&Manifest>,
) -> Result<(Manifest, Vec<u8>), Refusal> {
    let published = latest.map_or(0, |latest| latest.version);
    let follows = |version: u64, bytes: &[u8]| {
        let same = folder.small.get(LATEST).map(Vec::as_slice) == Some(bytes);
        version > published || latest.is_none() || same || wishes.stage
    };
    let fits =
        |version: u64, bytes: &[u8]| wishes.version.is_none_or(|wanted| wanted == version) && follows(version, bytes);
    if let Some(source) = &new.manifest
        && source.manifest.name == name
        && fits(source.manifest.version, &source.bytes)
    {
        return Ok((source.manifest.clone(), source.bytes.clone()));
    }
    let source = new.manifest.as_ref().map(|source| &source.manifest);
    let mut manifest = super::super::manifest::describe(&name, new.digests, None, 0, wishes.date, vec![]);
    if let Some(source) = source {
        manifest.kernel.clone_from(&source.kernel);
        manifest.layers.clone_from(&source.layers);
        manifest.sources.clone_from(&source.sources);
        manifest.boot_order.clone_from(&source.boot_order);
    }
    // Its own one first: a publication that was staged or cut short has not come to the latest yet.
    for bytes in [own_manifest(&name).as_str(), LATEST].iter().filter_map(|file| folder.small.get(*file)) {
        let Ok(there) = Manifest::parse(bytes) else { continue };
        let same = Manifest { version: there.version, date: there.date, ..manifest.clone() } == there;
        if same && fits(there.version, bytes) {
            return Ok((there, bytes.clone()));
        }
    }
    // There is one latest, whatever image it is of; so the versions of all images are one row.
    let versions = folder.versions();
    let highest = versions.last().map_or(0, |manifest| manifest.version).max(published);
    let next = highest.checked_add(1).ok_or(Refusal::NoVersion);
    manifest.version = match wishes.version {
        Some(version) => version,
        None => next?.max(source.map_or(0, |source| source.version)),
    };
    let bytes = manifest.render().into_bytes();
    if !follows(manifest.version, &bytes) {
        return Err(Refusal::Version { wanted: manifest.version, latest: published });
    }
    Manifest::parse(&bytes).map_err(Refusal::Manifest)?;
    Ok((manifest, bytes))
}

/// A signature file with the signatures of the one that it replaces behind its own. It is put there before the manifest:
/// so whichever manifest a machine read, and in whatever moment, the signature file that it reads then signs it. One that
/// begins so already stays.
fn followed(signature: &[u8], earlier: &[u8]) -> Vec<u8> {
    /// Those of the version before, and of some more; a boot looks at 64.
    const KEPT: usize = 8;
    if earlier.starts_with(signature) {
        return earlier.to_vec();
    }
    let own = trust::signatures(signature);
    let mut kept = trust::signatures(earlier);
    kept.retain(|signed| own.iter().all(|own| own.text != signed.text));
    let mut file = signature.trim_ascii_end().to_vec();
    file.push(b'\n');
    for signed in kept.iter().take(KEPT) {
        file.extend(signed.text.bytes());
        file.push(b'\n');
    }
    file
}

/// The files of the latest's versions older than the `keep` newest ones beside it, but of none that a manifest which
/// stays needs: there is no folder of their own for layers. A version's manifest goes last, so that what is left of a
/// removal that was cut short is found and finished by the next.
fn outdated(folder: &Folder, latest: &Manifest, keep: usize) -> Vec<Step> {
    let of = |manifest: &Manifest| family(&manifest.name, &manifest.sha256).map(ToOwned::to_owned);
    let mut going = folder.versions();
    going.retain(|old| old.name != latest.name && of(old) == of(latest));
    going.truncate(going.len().saturating_sub(keep));
    let stays = |file: &str| file != LATEST && !going.iter().any(|old| own_manifest(&old.name) == file);
    let staying = folder.manifests().filter(|(file, _)| stays(file)).map(|(_, manifest)| manifest);
    let mut staying: Vec<Manifest> = staying.chain([latest.clone()]).collect();
    // One that is needed stays, and so does what it needs itself.
    while let Some(at) = going.iter().position(|old| staying.iter().any(|manifest| needs(manifest, &old.name))) {
        staying.push(going.remove(at));
    }
    let parts = |manifest: &Manifest| {
        let beside = |suffix: &str| format!("{}{suffix}", manifest.name);
        let own = own_manifest(&manifest.name);
        [beside(""), beside(manifest::CHUNKS_SUFFIX), format!("{own}{SIGNATURE}"), own]
    };
    going.iter().flat_map(parts).filter(|name| folder.has(name)).map(Step::Remove).collect()
}

/// Whether machines that boot by a manifest fetch that image: as its own, or as a layer, by its name or its manifest's.
fn needs(manifest: &Manifest, image: &str) -> bool {
    let is_image = |layer: &String| layer.strip_suffix(manifest::SUFFIX).unwrap_or(layer) == image;
    manifest.name == image || manifest.layers.iter().any(is_image)
}

#[cfg(test)]
mod tests;
