//! Files that change while they are fetched: the machine has the one or the other, never something between.

use super::{PATH, Published, SIZE, SOON, Scene, Vouched, arrives, machine};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns::{self, Network};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: an ETag that changes between requests means nothing where chunks have hashes", || {
            let rules =
                [Fault::FreshEtag, Fault::CutAfter(SIZE / 3)].map(|fault| Rule::of(PATH, When::First(3), fault));
            Scene::new(rules)?.boots_thriftily("").map(drop)
        }),
        claim("fetching: an ETag that changes with every answer does not keep an unverified image away", fresh_etags),
        claim("fetching: an image replaced half-way together with its manifest is had whole, and new", || {
            replaced_by(Vouched::Manifest, SIZE)
        }),
        claim("fetching: an image replaced half-way together with its checksum is had whole, and new", || {
            replaced_by(Vouched::Checksum, SIZE)
        }),
        claim("fetching: an image replaced half-way with nothing to verify by is begun anew, never mixed", || {
            replaced_by(Vouched::Not, SIZE)
        }),
        claim("fetching: an image replaced by a shorter one is begun anew, never mixed", || {
            replaced_by(Vouched::Not, SIZE - 70_001)
        }),
        claim("fetching: an image replaced by a longer one is begun anew, never mixed", || {
            replaced_by(Vouched::Not, SIZE + 70_001)
        }),
        claim("fetching: an image replaced by a longer one together with its manifest is had whole, and new", || {
            replaced_by(Vouched::Manifest, SIZE + 70_001)
        }),
    ]
}

/// Nothing can be resumed, so the connection that is not cut must do.
fn fresh_etags() -> Result<()> {
    for vouched in [Vouched::Not, Vouched::Checksum] {
        let rules =
            [Rule::of(PATH, When::Always, Fault::FreshEtag), Rule::of(PATH, When::First(1), Fault::CutAt(SIZE / 2))];
        let scene = Scene::of(SIZE, vouched, rules)?;
        scene.boots("").with_context(|| format!("{vouched:?}"))?;
        let sent = scene.http.sent(PATH);
        ensure!(sent < SIZE * 5 / 2, "{vouched:?}: {sent} bytes were sent for an image of {SIZE}");
    }
    Ok(())
}

/// The new files lie in a folder of their own until they are renamed into the place of the old ones.
fn replaced_by(vouched: Vouched, size: u64) -> Result<()> {
    const FILES: [&str; 4] = ["", ".manifest", ".chunks", ".sha256"];
    let (old, new) = (Published::new(SIZE, 1)?, Published::new(size, 2)?);
    let network = Network::new()?;
    let (mut site, coming) = (old.site(vouched)?, new.site(vouched)?);
    for suffix in FILES {
        let path = format!("{PATH}{suffix}");
        if let Some(content) = coming.get(&path) {
            site = site.content(&format!("/new{path}"), content.clone());
        }
    }
    let http = network.http(site)?.faults([Rule::of(PATH, When::Always, Fault::Rate(2 << 20))]);
    let guest = machine(&network, "")?.start()?;
    http.wait_sent(PATH, SIZE / 2, SOON)?;
    for suffix in FILES {
        let path = format!("{PATH}{suffix}");
        http.commit(Rule::of(&path, When::Always, Fault::Instead(format!("/new{path}"))));
    }
    // Who is served the old one no more has nobody to complete it.
    http.cut();
    let arrived = arrives(guest, &new)?;
    equal(&arrived.about.size, &size)
}
