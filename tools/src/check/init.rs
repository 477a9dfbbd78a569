//! Would the boot start the image's init? By its own code, and in its words.

use super::archive::Archive;
use super::system::{Entry, Tree};
use super::verdict::{About, Verdict};
use rootbeam_init::contract;
use rootbeam_init::root::CANDIDATES;
use rootbeam_init::root::program::{self, Program, Unfit};
use rootbeam_init::settings::Settings;
use rootbeam_init::sys::tree::Look;
use std::path::Path;

const SYSTEM: About = About::System;
/// What a boot looks at of a program, in bytes.
pub const HEAD: u64 = 4096;

/// What is started as the real init, the first that is fit.
pub fn candidates(settings: &Settings) -> Vec<String> {
    match &settings.init {
        Some(given) => vec![given.to_string_lossy().into_owned()],
        None => CANDIDATES.map(str::to_owned).into(),
    }
}

/// The machine that an archive is for, by its own init. Only one of 64 bits is certain: a kernel runs programs of
/// narrower machines as well.
pub fn machine(archive: &Archive) -> Option<String> {
    match program::judge(&look(0o755, archive.file(contract::INIT)), "") {
        Err(Unfit::OtherMachine { found, .. }) if found.ends_with("64") => Some(found),
        _ => None,
    }
}

/// A file whose first bytes have to be read for [`judge`], if there is one.
pub fn unread(tree: &Tree, settings: &Settings) -> Option<String> {
    candidates(settings).iter().find_map(|path| follow(tree, path, None).1)
}

/// Judges the init that a boot would choose on this machine. What was not read of a layer is taken for fit.
pub fn judge(tree: &Tree, settings: &Settings, machine: Option<&str>) -> Verdict {
    let mut reasons = Vec::new();
    for path in candidates(settings) {
        let why = match follow(tree, &path, machine).0 {
            Ok(true) => return SYSTEM.ok(format!("The real init is {path}.")),
            Ok(false) => "is not there".to_owned(),
            Err(unfit) => unfit.to_string(),
        };
        if settings.init.is_some() {
            return SYSTEM.failure(format!("init={path}: it {why}; correct it, or the image."));
        }
        reasons.push(format!("{path} {why}"));
    }
    SYSTEM.failure(format!(
        "The image has no init ({}): build it from a system that has one, or name one with init=.",
        reasons.join("; ")
    ))
}

/// Whether a program is there and can start, and a file that was not read and counts as fit so far.
fn follow(tree: &Tree, path: &str, machine: Option<&str>) -> (Result<bool, Unfit>, Option<String>) {
    let mut unread = None;
    let fit = program::follow(Path::new(path), |path| {
        let (place, entry) = tree.resolve(&path.to_string_lossy())?;
        Some(match (entry, tree.texts.get(&place)) {
            (Entry::File(mode), Some(text)) => fitness(&look((*mode).into(), text), machine),
            (Entry::File(_), None) => {
                unread = Some(place);
                Ok(Program::Static)
            }
            _ => fitness(&Look { regular: false, ..look(0, b"") }, machine),
        })
    });
    (fit, unread)
}

/// As the boot judges it, on a machine that runs it where nothing is known of the machine.
fn fitness(found: &Look, machine: Option<&str>) -> Result<Program, Unfit> {
    match (program::judge(found, machine.unwrap_or_default()), machine) {
        (Err(Unfit::OtherMachine { found: its, .. }), None) => program::judge(found, &its),
        (judged, _) => judged,
    }
}

fn look(mode: u32, text: &[u8]) -> Look {
    let head = text.get(..HEAD as usize).unwrap_or(text).to_vec();
    Look { regular: true, mode, size: text.len() as u64, head }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Level;
    use super::*;

    /// The start of a program for that ELF machine, perhaps with an interpreter.
    fn program(machine: u8, interpreter: Option<&str>) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        (elf[18], elf[32], elf[54]) = (machine, 64, 56);
        if let Some(path) = interpreter {
            (elf[56], elf[64], elf[64 + 8], elf[64 + 32]) = (1, 3, 120, path.len() as u8);
            elf.extend_from_slice(path.as_bytes());
        }
        elf
    }

    fn tree(files: &[(&str, u16, &[u8])]) -> Tree {
        let mut tree = Tree::default();
        for (path, mode, text) in files {
            tree.entries.insert((*path).to_owned(), Entry::File(*mode));
            tree.texts.insert((*path).to_owned(), text.to_vec());
        }
        for folder in ["sbin", "bin", "etc", "lib64", "usr", "usr/bin", "usr/sbin"] {
            tree.entries.entry(folder.to_owned()).or_insert(Entry::Folder);
        }
        tree
    }

    fn of(tree: &Tree) -> (Level, String) {
        let verdict = judge(tree, &Settings::default(), Some("x86_64"));
        (verdict.level, verdict.text)
    }

    const ELSE: &str = "/etc/init is not there; /bin/init is not there; /bin/sh is not there): build it from a system \
                        that has one, or name one with init=.";

    #[test]
    fn an_init_that_the_boot_refuses_is_refused_in_its_words() {
        let loader = program(62, Some("/lib64/ld.so"));
        for (mode, text, why) in [
            (0o755, &b""[..], "is empty"),
            (0o644, &program(62, None), "is not executable (mode 0644)"),
            (0o755, &program(183, None), "is a program for aarch64, this machine is x86_64"),
            (0o755, b"MZ", "is neither an ELF program nor a script"),
            (0o755, &loader, "needs /lib64/ld.so, which is not there"),
            (0o755, b"#!/usr/bin/perl -w\n", "needs /usr/bin/perl, which is not there"),
            (0o755, b"#!/etc\n", "needs /etc, which is not a regular file"),
        ] {
            let said = format!("The image has no init (/sbin/init {why}; {ELSE}");
            assert_eq!(of(&tree(&[("sbin/init", mode, text)])), (Level::Failure, said));
        }
        let foreign = [("sbin/init", 0o755, &loader[..]), ("lib64/ld.so", 0o755, &program(183, None))];
        let why = "needs /lib64/ld.so, which is a program for aarch64, this machine is x86_64";
        assert_eq!(of(&tree(&foreign)), (Level::Failure, format!("The image has no init (/sbin/init {why}; {ELSE}")));
    }

    #[test]
    fn the_first_that_is_fit_is_the_real_init_through_links_and_interpreters() {
        let (dynamic, fixed) = (program(62, Some("/lib64/ld.so")), program(62, None));
        let mut found = tree(&[
            ("usr/sbin/systemd", 0o755, b"#!/bin/sh\n"),
            ("bin/sh", 0o755, &dynamic),
            ("lib64/ld.so", 0o755, &fixed),
        ]);
        found.entries.insert("sbin".into(), Entry::Link("usr/sbin".into()));
        found.entries.insert("usr/sbin/init".into(), Entry::Link("systemd".into()));
        assert_eq!(of(&found), (Level::Ok, "The real init is /sbin/init.".to_owned()));
        found.texts.insert("usr/sbin/systemd".into(), Vec::new());
        assert_eq!(of(&found), (Level::Ok, "The real init is /bin/sh.".to_owned()));
        let given = Settings { init: Some("/sbin/init".into()), ..Settings::default() };
        let verdict = judge(&found, &given, Some("x86_64"));
        let said = "init=/sbin/init: it is empty; correct it, or the image.";
        assert_eq!((verdict.level, verdict.text.as_str()), (Level::Failure, said));
    }

    #[test]
    fn each_file_that_a_start_leads_through_is_read_once() {
        let mut found = tree(&[]);
        let texts = [
            ("sbin/init", &b"#!/bin/sh\n"[..]),
            ("bin/sh", &program(62, Some("/lib64/ld.so"))),
            ("lib64/ld.so", &program(62, None)),
        ];
        for (path, _) in texts {
            found.entries.insert(path.to_owned(), Entry::File(0o755));
        }
        let mut read = Vec::new();
        while let Some(place) = unread(&found, &Settings::default()) {
            let (_, text) = texts.into_iter().find(|(path, _)| *path == place).unwrap();
            read.push(place.clone());
            found.texts.insert(place, text.to_vec());
        }
        assert_eq!(read, ["sbin/init", "bin/sh", "lib64/ld.so"]);
        assert_eq!(of(&found).0, Level::Ok);
    }

    #[test]
    fn without_the_machine_a_program_of_any_is_fit() {
        let found = tree(&[("sbin/init", 0o755, &program(183, None))]);
        assert_eq!(judge(&found, &Settings::default(), None).level, Level::Ok);
        assert_eq!(of(&found).0, Level::Failure);
    }
}
