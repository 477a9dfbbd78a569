//! `rootbeam sign`: a signature over a manifest, as minisign makes it.

use crate::image::{beside, now, source_date_epoch};
use crate::output;
use crate::password::{self, Password};
use crate::term::{Term, result};
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign::{PublicKey, SecretKey, SecretKeyBox};
use rootbeam_init::manifest::{self, Manifest};
use rootbeam_init::trust::{self, Anchors, Key, KeyId};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Sign a manifest
///
/// Writes MANIFEST.minisig, which belongs beside the manifest on the server. minisign verifies it, and a signature by
/// minisign is as good.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rootbeam sign web.squashfs.manifest -s web.key
  rootbeam sign web.squashfs.manifest -s bob.key --add    beside the signatures that are there, for
                                                          `rootbeam pack --key-threshold`
  rootbeam image verify web.squashfs --key web.pub        is it signed, and is every byte as it says?

Signs what a boot would read as a manifest and nothing else. The time of the signature is that of SOURCE_DATE_EPOCH
where it is set.

Exit codes: 0 signed, 1 refused or failed, 2 wrong usage")]
pub struct Args {
    /// The manifest, as `rootbeam image manifest` writes it
    pub manifest: PathBuf,
    /// The secret key, made by `rootbeam keygen` or `minisign -G`
    #[arg(short, long, value_name = "KEY")]
    pub secret: PathBuf,
    /// Keep the signatures of other keys that are there
    #[arg(long)]
    pub add: bool,
    #[command(flatten)]
    password: password::Choice,
}

/// Runs `rootbeam sign`.
pub fn run(args: &Args, term: &Term) -> Result<()> {
    let name = args.manifest.display();
    let own = beside(&args.manifest, manifest::SUFFIX);
    let Some(bytes) = read_within(&args.manifest, manifest::MAX_BYTES)? else {
        let make = if own.exists() { String::new() } else { format!("run `rootbeam image manifest {name}` and ") };
        bail!("{name} is no manifest, it has more than {} bytes: {make}sign {}", manifest::MAX_BYTES, own.display());
    };
    let manifest = Manifest::parse(&bytes).map_err(|refusal| match own.exists() {
        true => anyhow!("{name} is no manifest: sign {}", own.display()),
        false => anyhow!("{name}: {refusal}; make one with `rootbeam image manifest IMAGE`"),
    })?;
    let place = beside(&args.manifest, trust::SUFFIX);
    let there = existing(&place)?;
    let signer = Signer::unlock(&args.secret, &args.password)?;
    let id = signer.public.id();
    let signature = signer.sign(&args.manifest, &bytes)?;

    // A key that signed before signs anew.
    let (kept, dropped): (Vec<_>, Vec<_>) = there.into_iter().partition(|(key, _)| args.add && *key != id);
    let file = kept.iter().map(|(_, text)| text.as_str()).chain([signature.as_str()]).collect::<String>();
    output::write(&place, file.as_bytes())?;

    let version = manifest.version;
    let keys: Vec<KeyId> = kept.iter().map(|(key, _)| *key).chain([id]).collect();
    result(format_args!("{}: version {version}, signed by {}", place.display(), trust::listed(&keys)))?;
    let replaced: Vec<KeyId> = dropped.into_iter().map(|(key, _)| key).filter(|key| *key != id).collect();
    if !replaced.is_empty() {
        term.note(format_args!("replaced the signatures by {}; --add keeps them", trust::listed(&replaced)));
    }
    term.note(format_args!(
        "Publish it beside the manifest. A machine whose initramfs has the public key boots nothing else:\n  \
         rootbeam pack … --key PUB"
    ));
    Ok(())
}

/// The signatures in the file `place`, each with the number of its key; none where there is no file.
fn existing(place: &Path) -> Result<Vec<(KeyId, String)>> {
    if !place.exists() {
        return Ok(Vec::new());
    }
    let bytes = read(place, trust::MAX_SIGNATURE_BYTES as u64)?;
    let signatures = trust::signatures(&bytes);
    if signatures.is_empty() && !bytes.is_empty() {
        bail!("{} is there and holds no minisign signature: remove it if it may be overwritten", place.display());
    }
    Ok(signatures.into_iter().map(|signed| (signed.key, signed.text + "\n")).collect())
}

/// A secret key that can sign.
pub(crate) struct Signer {
    place: PathBuf,
    secret: SecretKey,
    public: Key,
}

impl Signer {
    /// Reads the key in the file `place`, which may be under a password.
    pub(crate) fn unlock(place: &Path, password: &password::Choice) -> Result<Self> {
        let secret = secret_key(place, password)?;
        let public =
            Key::parse(&PublicKey::from_secret_key(&secret)?.to_base64()).context("the key is none of minisign's")?;
        Ok(Self { place: place.to_owned(), secret, public })
    }

    /// One signature, four lines, with the comment that minisign writes; `manifest` is the name of what is signed.
    pub(crate) fn sign(&self, manifest: &Path, bytes: &[u8]) -> Result<String> {
        let name = manifest.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.chars().any(char::is_control) {
            bail!("{} has a control character in its name: rename it", manifest.display());
        }
        let time = source_date_epoch()?.unwrap_or_else(now);
        let trusted = format!("timestamp:{time}\tfile:{name}\thashed");
        let untrusted = format!("signature by key {}", self.public.id());
        let signed = minisign::sign(None, &self.secret, bytes, Some(&trusted), Some(&untrusted));
        let signed = signed.with_context(|| format!("cannot sign {}", manifest.display()))?.into_string();
        // What a boot would refuse must never be published.
        if !self.signed(bytes, signed.as_bytes()) {
            bail!("{} is damaged: what it signs does not verify", self.place.display());
        }
        Ok(signed)
    }

    /// Whether a boot that trusts this key accepts the signature `file` of these bytes.
    pub(crate) fn signed(&self, bytes: &[u8], file: &[u8]) -> bool {
        let anchors = Anchors::new(&[("the key", self.public.as_str().as_bytes())], None, None);
        anchors.is_ok_and(|anchors| anchors.signers(bytes, file).is_ok())
    }
}

fn secret_key(place: &Path, password: &password::Choice) -> Result<SecretKey> {
    /// Algorithm, key derivation, checksum, salt, its two limits, key number, key, checksum.
    const LENGTH: usize = 2 + 2 + 2 + 32 + 8 + 8 + 8 + 64 + 32;
    let name = place.display();
    let none = || anyhow!("{name} is no secret key; `rootbeam keygen` makes one");
    let text = String::from_utf8(read(place, 4096)?).map_err(|_| none())?;
    let decoded = text.lines().nth(1).and_then(|line| STANDARD.decode(line).ok()).unwrap_or_default();
    match (decoded.len(), decoded.get(2..4)) {
        // Without a password minisign leaves the checksum empty, which the library takes for damage: the key is read
        // past it, and a damaged one shows when the signature is verified.
        (LENGTH, Some([0, 0])) => SecretKey::from_bytes(&decoded).map_err(|_| none()),
        (LENGTH, Some(b"Sc")) => {
            let hint = "`rootbeam keygen --no-password` makes a key without one";
            let password = Password::of(password, hint)?.known_one()?;
            let file = SecretKeyBox::from_string(&text)?;
            file.into_secret_key(Some(password)).with_context(|| name.to_string())
        }
        _ => Err(none()),
    }
}

/// The file's bytes, at most `limit`.
fn read(place: &Path, limit: u64) -> Result<Vec<u8>> {
    read_within(place, limit)?
        .with_context(|| format!("{} has more than the {limit} bytes that are read", place.display()))
}

/// The file's bytes, where they are no more than `limit`.
fn read_within(place: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = File::open(place).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok((bytes.len() as u64 <= limit).then_some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => bail!("there is no {}", place.display()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", place.display())),
    }
}
