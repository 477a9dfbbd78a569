//! Archives of other tools.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::{command, images, places};
use std::collections::BTreeSet;
use std::process::Command;

pub fn claims() -> Vec<Trial> {
    vec![claim("foreign: inspect lists Debian's own initrd.img as Debian's tools do", &[images::debian], debian_initrd)]
}

fn debian_initrd() -> Result<()> {
    let (initrd, names) = images::debian_initrd()?;
    let said = command::run(Command::new(places::shipped_rootbeam()?).args(["inspect", "--json"]).arg(initrd))?;
    let about: serde_json::Value = serde_json::from_str(&said)?;
    let list = |pointer: &str| about.pointer(pointer).and_then(|found| found.as_array()).context("not a list");
    let compressions: Vec<_> =
        list("/archives")?.iter().filter_map(|part| part.pointer("/compression")?.as_str()).collect();
    equal(&compressions, &vec!["none", "zstd"])?;
    let found: BTreeSet<String> =
        list("/contents")?.iter().filter_map(|item| Some(clean(item.pointer("/path")?.as_str()?))).collect();
    let expected: BTreeSet<String> = std::fs::read_to_string(names)?.lines().map(clean).collect();
    let difference: Vec<_> = found.symmetric_difference(&expected).collect();
    ensure!(difference.is_empty(), "listed by one alone: {difference:?}");
    for part in ["kernel/x86/microcode/GenuineIntel.bin", "init", "scripts/functions"] {
        ensure!(found.contains(part), "no {part} among {} names", found.len());
    }
    ensure!(found.len() > 500, "{} names", found.len());
    Ok(())
}

/// A name without the `./` and the slash at the end that some tools write.
fn clean(name: &str) -> String {
    name.trim_start_matches("./").trim_end_matches('/').to_owned()
}
