//! `rootbeam inspect`: says what an initramfs holds.

use crate::term::Bytes;
use anyhow::{Context, Result};
use rootbeam_init::clock::Utc;
use rootbeam_init::label::printable;
use rootbeam_initramfs::inspect::{Item, Report};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

/// Show what an initramfs holds
///
/// Reads the files of rootbeam and of other tools: several archives one after the other, uncompressed or by gzip,
/// bzip2, lzma, xz, lzo, lz4 or zstd. The contents come first, the summary last.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 read, 1 not an initramfs, 2 wrong usage")]
pub struct Args {
    /// The initramfs
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Shows what an initramfs holds.
pub fn run(args: Args) -> Result<()> {
    let at = || args.file.display().to_string();
    let report = Report::of(&fs::read(&args.file).with_context(at)?).with_context(at)?;
    let text = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { render(&report) };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A reader like `head` that has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("printing"),
    }
}

/// The longest name from an archive that is printed whole, in characters.
const SHOWN: usize = 400;

/// The report for a person.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    for item in &report.contents {
        line(&mut out, item);
    }
    let mut row = |label: &str, text: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{label:<13}{text}");
    };
    row("", "");
    for (number, part) in report.archives.iter().enumerate() {
        let label = if number == 0 { "archives" } else { "" };
        let (packed, unpacked) = (Bytes(part.packed as u64), Bytes(part.unpacked as u64));
        let entries = part.entries;
        row(label, &format!("{:<6} at {:<10} {packed} → {unpacked}, {entries} entries", part.compression, part.offset));
    }
    for (number, (room, size)) in report.rooms.iter().enumerate() {
        let label = if number == 0 { "rooms" } else { "" };
        let plural = if size.files == 1 { "" } else { "s" };
        row(label, &format!("{room:<10} {:>11}, {} file{plural}", Bytes(size.bytes).to_string(), size.files));
    }
    if let Some(name) = &report.name {
        row("name", &printable(name, SHOWN));
    }
    if let Some(time) = report.build_time {
        row("built", &Utc(time).to_string());
    }
    let kernels = report.kernels.iter().map(|name| printable(name, SHOWN)).collect::<Vec<_>>().join(", ");
    row("kernel", if kernels.is_empty() { "none: no modules are packed" } else { &kernels });
    for setting in &report.settings {
        row("setting", &printable(setting, SHOWN));
    }
    for key in &report.keys {
        let id = key.id.map_or_else(|| "no minisign key:".to_owned(), |id| id.to_string());
        row("key", &printable(&format!("{} {id} {}", key.name, key.key), SHOWN));
    }
    if !report.keys.is_empty() {
        let needed = report.key_threshold.unwrap_or(1);
        row("signatures", &format!("{needed} of these {} keys must have signed a manifest", report.keys.len()));
    }
    if let Some(version) = report.min_version {
        row("min version", &format!("manifests below version {version} do not boot"));
    }
    row("certificates", &report.certificates.to_string());
    if report.client_certificate {
        row("client", "a certificate and its key");
    }
    if report.token {
        row("token", "yes");
    }
    row("shell", if report.shell { "yes" } else { "no" });
    row("file", &Bytes(report.file as u64).to_string());
    out
}

fn line(out: &mut String, item: &Item) {
    let size = match item.device {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => item.size.to_string(),
    };
    let target = item.target.as_ref().map(|target| format!(" -> {}", printable(target, SHOWN))).unwrap_or_default();
    let _ = writeln!(out, "{} {size:>10} {}{target}", item.mode, printable(&item.path, SHOWN));
}
