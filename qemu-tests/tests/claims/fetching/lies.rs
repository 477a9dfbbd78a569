//! Answers that are not what they should be. One that comes once costs a request; a server that keeps on lying costs
//! nothing where another tells the truth.

use super::{CHUNK, PATH, Published, SIZE, Scene, URL, Vouched, boots, machine};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns::{self, Network};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use std::time::Instant;

/// What a server may say, in words, and as faults that one request suffers together.
pub fn all() -> Vec<(&'static str, Vec<Fault>)> {
    let raw = |text: &str| vec![Fault::Raw(text.into())];
    vec![
        ("a Content-Length that is too large", vec![Fault::WrongLength(1000)]),
        ("a Content-Length that is too small", vec![Fault::WrongLength(-1000)]),
        ("a Content-Encoding that nobody asked for", vec![Fault::Encoding("gzip".into())]),
        ("a 206 with the wrong range", vec![Fault::ShiftRange(CHUNK)]),
        ("a 206 with the bytes of another range", vec![Fault::WrongBytes(CHUNK)]),
        ("a flipped bit", vec![Fault::FlipBit(CHUNK * 2 + 5)]),
        ("a redirect in circles", vec![Fault::Redirect(PATH.into())]),
        ("random bytes for a head", vec![Fault::Garbage(0x2006)]),
        ("two Content-Lengths", vec![Fault::Header("Content-Length: 5".into())]),
        ("a Content-Length beyond all sizes", raw("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n")),
        ("a Content-Range that is no range", raw("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-2/x\r\n\r\n")),
        ("no HTTP at all", raw("220 mail.test ESMTP\r\n")),
        ("a head without an end", vec![Fault::Raw([b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 300_000]].concat())]),
    ]
}

/// A redirect in circles takes a dozen requests to be one.
const ONCE: usize = 12;

pub fn claims() -> Vec<Trial> {
    let beside = "fetching: a bit that flips once does not end a boot whose other source is dead";
    let mut claims = vec![
        claim(beside, &[netns::available], flipped_beside_a_dead_one),
        claim("fetching: a redirect in circles is called so", &[netns::available], circles),
        claim("fetching: strange but lawful heads are taken as they are", &[netns::available], lawful),
    ];
    for (what, faults) in all() {
        let lie = faults.clone();
        let name = format!("fetching: {what} once does not end a boot");
        claims.push(claim(&name, &[netns::available], move || told_once(lie)));
        let name = format!("fetching: {what} from one of two sources is made good by the other");
        claims.push(claim(&name, &[netns::available], move || told_always(faults)));
    }
    claims
}

/// The same from the first requests only.
pub fn once(lie: Vec<Fault>) -> Vec<Rule> {
    let when = match lie[..] {
        [Fault::Redirect(_)] => When::First(ONCE),
        _ => When::First(2),
    };
    lie.into_iter().map(|fault| Rule::of(PATH, when, fault)).collect()
}

/// A connection is cut as well, since some lies need a range.
fn told_once(lie: Vec<Fault>) -> Result<()> {
    let cut = Rule::of(PATH, When::First(1), Fault::CutAt(SIZE / 2));
    Scene::new(once(lie).into_iter().chain([cut]))?.boots("rootbeam.stall=2").map(drop)
}

fn told_always(faults: Vec<Fault>) -> Result<()> {
    let image = Published::new(SIZE, 1)?;
    let network = Network::new()?;
    let lies = faults.into_iter().map(|fault| Rule::of(PATH, When::Always, fault));
    let cut = Rule::of(PATH, When::First(1), Fault::CutAt(SIZE / 2));
    let _liar = network.http(image.site(Vouched::Manifest)?)?.faults(lies);
    let good = network.http_on(81, image.site(Vouched::Manifest)?)?.faults([cut]);
    let words = format!("rootbeam.stall=2 rootbeam.image={URL},http://10.77.0.1:81{PATH}");
    let begun = Instant::now();
    boots(&machine(&network, &words)?, &image)?;
    ensure!(begun.elapsed().as_secs() < 45, "it took {:?}", begun.elapsed());
    super::thrifty(good.sent(PATH), SIZE)
}

/// The one that sent it is the only one that can send it again.
fn flipped_beside_a_dead_one() -> Result<()> {
    let scene = Scene::new([Rule::of(PATH, When::First(1), Fault::FlipBit(CHUNK * 70))])?;
    let begun = Instant::now();
    let arrived = scene.boots(&format!("rootbeam.image=http://10.77.0.1:81{PATH},{URL}"))?;
    ensure!(begun.elapsed().as_secs() < 45, "it took {:?}", begun.elapsed());
    equal(&arrived.about.tally.rejected_chunks, &1)
}

fn circles() -> Result<()> {
    let scene = Scene::new([Rule::of(PATH, When::Always, Fault::Redirect(PATH.into()))])?;
    let booted = scene.machine("")?.run()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    let expected = format!(
        "FAILED at image: {URL}: the server redirects in circles, or from https to http. Remedy: name the final URL in \
         rootbeam.image=."
    );
    ensure!(booted.console.contains(&expected), "{}", booted.console);
    Ok(())
}

fn lawful() -> Result<()> {
    let many: String = (0..60).map(|number| format!("X-Field-{number}: {}\r\n", "v".repeat(50))).collect();
    let header = |line: &str| Rule::everywhere(When::Always, Fault::Header(line.into()));
    let rules = [
        header(many.trim_end()),
        header("Content-Encoding: identity"),
        header("Set-Cookie: a=b; Path=/"),
        header("Server:"),
        header("Alt-Svc: h3=\":443\"; ma=86400"),
        Rule::everywhere(When::Always, Fault::Close),
    ];
    Scene::new(rules)?.boots_thriftily("").map(drop)
}
