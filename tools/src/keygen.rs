//! `rootbeam keygen`: a key pair to sign manifests with.

use crate::password::{self, Password};
use crate::term::{Term, result};
use anyhow::{Context, Result, bail};
use minisign::KeyPair;
use rootbeam_init::trust::Key;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Make a key pair to sign manifests with
///
/// NAME.key is the secret key, for `rootbeam sign`; it belongs on no server. NAME.pub is the public key, for
/// `rootbeam pack --key`. Both are minisign's files, and no file is ever overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rootbeam keygen web                                web.key, under a password that is asked for, and web.pub
  rootbeam keygen web --no-password                  a secret key that whoever reads it can sign with
  rootbeam keygen web --password-file /run/secret    the first line of a file is the password; - is standard input

Guessing the password costs 32 MiB of memory a guess; with keys of `minisign -G`, which are as good here, it is 1 GiB.

Exit codes: 0 made, 1 refused or failed, 2 wrong usage")]
pub struct Args {
    /// Name of the two files, without .key and .pub
    pub name: PathBuf,
    #[command(flatten)]
    password: password::Choice,
    /// Keep the secret key as it is; its file is readable for its owner only
    #[arg(long, conflicts_with = "password_file")]
    pub no_password: bool,
}

/// Runs `rootbeam keygen`.
pub fn run(args: &Args, term: &Term) -> Result<()> {
    let [secret, public] = ["key", "pub"].map(|suffix| beside(&args.name, suffix));
    for place in [&secret, &public] {
        if place.symlink_metadata().is_ok() {
            bail!("{} is there, and a key is never overwritten: take another name", place.display());
        }
    }
    let pair = match args.no_password {
        true => KeyPair::generate_unencrypted_keypair(),
        false => {
            let hint = "--no-password makes a key without one";
            let password = Password::of(&args.password, hint)?.new_one()?;
            KeyPair::generate_encrypted_keypair(Some(password))
        }
    };
    let KeyPair { pk, sk } = pair.context("cannot make a key pair")?;
    let key = Key::parse(&pk.to_base64()).context("the key that was made is none that a boot would take")?;
    let id = key.id();
    write_new(&secret, 0o600, &sk.to_box(Some(&format!("secret key {id}")))?.into_string())?;
    write_new(&public, 0o644, &format!("untrusted comment: public key {id}\n{}\n", key.as_str()))?;

    let (secret, public) = (secret.display(), public.display());
    let how = if args.no_password { "without a password" } else { "under your password" };
    result(format_args!("{secret}: secret key {id}, {how}; {public}: its public key"))?;
    term.note(format_args!(
        "Keep {secret} off the servers. Next:\n  \
         rootbeam pack … --key {public}                 an initramfs that boots nothing else than what it signed\n  \
         rootbeam sign IMAGE.manifest -s {secret}       after each `rootbeam image manifest IMAGE`"
    ));
    Ok(())
}

fn beside(name: &Path, suffix: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}

/// Writes a file that was not there.
fn write_new(place: &Path, mode: u32, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(place)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .with_context(|| format!("cannot write {}", place.display()))
}
