//! Several sources, of which some are of no use: the boot succeeds from the rest.

use super::{Arrived, CHUNK, PATH, Published, SIZE, SOON, URL, Vouched, arrives, boots, machine, thrifty};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::report::Share;
use rootbeam_qemu_tests::claim::claim;
use rootbeam_qemu_tests::netns::{self, Network};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use std::time::Instant;

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: of three sources one is corrupt, one dead and one slow, and together they do", all_three),
        claim("fetching: of three sources a corrupt one costs nothing but its chunks", || {
            first_of_three(Trouble::Corrupt).map(drop)
        }),
        claim("fetching: of three sources one that refuses costs nothing", || {
            first_of_three(Trouble::Refused).map(drop)
        }),
        claim("fetching: of three sources one that never answers costs no more than its time", || {
            first_of_three(Trouble::BlackHole).map(drop)
        }),
        claim("fetching: of three sources one that gives a byte a second is left behind", || {
            first_of_three(Trouble::Slow).map(drop)
        }),
        claim("fetching: of three sources one without the image costs nothing", || {
            first_of_three(Trouble::Absent).map(drop)
        }),
        claim("fetching: the report says which of three sources was corrupt", || says(Trouble::Corrupt)),
        claim("fetching: the report says which of three sources was dead", || says(Trouble::Refused)),
        claim("fetching: the report says which of three sources was slow", || says(Trouble::Slow)),
        claim("fetching: of two sources a corrupt one does not end a boot by the hash of the whole", corrupt_of_two),
        claim("fetching: sources that are dead at first are used when they come", late),
        claim("fetching: a dead source that may have the proof is waited for, and what the other lacks is said", proof),
    ]
}

fn proof() -> Result<()> {
    let Mirrors { image, network } = Mirrors::new()?;
    let _bare = network.http(image.site(Vouched::Not)?)?;
    let words = format!("rootbeam.image=http://{}:81{PATH},{URL} rootbeam.verify=require", network.server());
    let guest = machine(&network, &words)?.start()?;
    let said = format!(
        "manifest: {URL}: verification is required, and there is neither manifest nor checksum; the other sources are asked"
    );
    let console = guest.console().wait_for(&said, SOON)?;
    ensure!(console.contains(":81/web.squashfs: the server refused the connection"), "{console}");
    let _whole = network.http_on(81, image.site(Vouched::Manifest)?)?;
    let arrived = arrives(guest, &image)?;
    ensure!(arrived.report.verification.starts_with("checksummed: "), "{}", arrived.report.verification);
    Ok(())
}

/// The most that a source is asked for at once before it has shown that it is of use.
const ASKED_AT_ONCE: u64 = 4 * CHUNK;

/// What is wrong with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Corrupt,
    Refused,
    BlackHole,
    Slow,
    Absent,
}

/// A network with an image on several ports.
struct Mirrors {
    image: Published,
    network: Network,
}

impl Mirrors {
    fn new() -> Result<Self> {
        Ok(Self { image: Published::new(SIZE, 1)?, network: Network::new()? })
    }

    fn url(port: u16) -> String {
        format!("http://10.77.0.1:{port}{PATH}")
    }

    fn serve(&self, port: u16, rules: impl IntoIterator<Item = Rule>) -> Result<HttpServer> {
        Ok(self.network.http_on(port, self.image.site(Vouched::Manifest)?)?.faults(rules))
    }

    fn boots(&self, urls: &[String], words: &str) -> Result<Arrived> {
        let words = format!("rootbeam.image={} rootbeam.stall=2 {words}", urls.join(","));
        boots(&machine(&self.network, &words)?, &self.image)
    }
}

fn corrupt(chunks: &[u64]) -> Vec<Rule> {
    chunks.iter().map(|chunk| Rule::of(PATH, When::Always, Fault::FlipBit(chunk * CHUNK + 9))).collect()
}

fn all_three() -> Result<()> {
    let mirrors = Mirrors::new()?;
    let _corrupt = mirrors.serve(81, corrupt(&[3, 60]))?;
    let _slow = mirrors.serve(83, [Rule::everywhere(When::Always, Fault::Rate(1 << 20))])?;
    let begun = Instant::now();
    mirrors.boots(&[81, 82, 83].map(Mirrors::url), "")?;
    ensure!(begun.elapsed().as_secs() < 30, "it took {:?}", begun.elapsed());
    Ok(())
}

/// The first source has this trouble, the other two have none. The URL of the first, and how it went.
fn first_of_three(trouble: Trouble) -> Result<(String, Arrived)> {
    let mirrors = Mirrors::new()?;
    let mut bad = Mirrors::url(81);
    let rules = match trouble {
        Trouble::Corrupt => Some(corrupt(&[0, 3, 60])),
        Trouble::Slow => Some(vec![Rule::everywhere(When::Always, Fault::Rate(1))]),
        Trouble::Absent => Some(vec![Rule::everywhere(When::Always, Fault::Status(404))]),
        Trouble::BlackHole => {
            bad = format!("http://{}{PATH}", mirrors.network.black_hole()?);
            None
        }
        Trouble::Refused => None,
    };
    let first = rules.map(|rules| mirrors.serve(81, rules)).transpose()?;
    let others = [mirrors.serve(82, [])?, mirrors.serve(83, [])?];
    let begun = Instant::now();
    let arrived = mirrors.boots(&[bad.clone(), Mirrors::url(82), Mirrors::url(83)], "")?;
    ensure!(begun.elapsed().as_secs() < 30, "it took {:?}", begun.elapsed());
    let sent: u64 = first.iter().chain(&others).map(|http| http.sent(PATH)).sum();
    // What was asked for together with a wrong chunk is under way already.
    let vain = arrived.about.tally.rejected_chunks * ASKED_AT_ONCE;
    thrifty(sent.saturating_sub(vain), mirrors.image.size()).with_context(|| format!("{:?}", arrived.about.tally))?;
    Ok((bad, arrived))
}

/// What it did, and how that ended.
fn says(trouble: Trouble) -> Result<()> {
    let (bad, arrived) = first_of_three(trouble)?;
    let share = arrived.about.shares.iter().find(|share| share.source == bad);
    let share = share.with_context(|| format!("nothing of {bad} in the report: {:#?}", arrived.about.shares))?;
    let told = match trouble {
        Trouble::Corrupt => share.rejected_chunks >= 1 && told(share, "it sent bytes with the wrong SHA-256"),
        Trouble::Refused => share.fetched == 0 && told(share, "the server refused the connection"),
        _ => share.fetched < CHUNK,
    };
    ensure!(told, "{trouble:?}: {share:#?}");
    Ok(())
}

fn told(share: &Share, trouble: &str) -> bool {
    share.failures >= 1 && share.trouble.as_deref() == Some(trouble)
}

/// Nothing tells which chunk is wrong, only that the whole is.
fn corrupt_of_two() -> Result<()> {
    let (image, network) = (Published::new(SIZE, 1)?, Network::new()?);
    let serve = |port| network.http_on(port, image.site(Vouched::Checksum)?);
    let (_corrupt, _good) = (serve(81)?.faults(corrupt(&[3])), serve(82)?);
    let words = format!("rootbeam.image={}", [81, 82].map(Mirrors::url).join(","));
    boots(&machine(&network, &words)?, &image).map(drop)
}

fn late() -> Result<()> {
    let mirrors = Mirrors::new()?;
    let urls = [81, 82].map(Mirrors::url);
    let words = format!("rootbeam.image={}", urls.join(","));
    let guest = machine(&mirrors.network, &words)?.start()?;
    guest.console().wait_for("the server refused the connection", super::SOON)?;
    let _second = mirrors.serve(82, [])?;
    super::arrives(guest, &mirrors.image).map(drop)
}
