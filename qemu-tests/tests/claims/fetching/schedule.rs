//! What befalls one boot of the soak, all of it from one number.

use super::lies;
use super::{CHUNK, PATH, Vouched};
use fastrand::Rng;
use rootbeam_qemu_tests::servers::fault::{FOR_EVER, Fault, Rule, When};
use std::time::Duration;

/// The most sources of a schedule.
pub const SOURCES: u16 = 3;
/// Chunks of the smallest image, which has room for the probe, and of the largest one.
const CHUNKS: std::ops::RangeInclusive<u64> = 24..=64;

/// One boot: its image, its servers and what becomes of them.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Size of the image, around a multiple of the chunk size.
    pub size: u64,
    /// What vouches for it.
    pub vouched: Vouched,
    /// The servers, in the order of the command line.
    pub sources: Vec<Nature>,
    /// Fetch workers are killed when so many bytes of the image have been sent.
    pub kills: Vec<u64>,
    /// Servers are stopped and started again.
    pub restarts: Vec<Restart>,
    /// Whether the real init runs while the image is fetched.
    pub streams: bool,
    /// So long after its real init came up, while it reads the image, a machine that streams is restarted.
    pub restarted: Option<Duration>,
}

/// What a server is like.
#[derive(Clone, Debug)]
pub enum Nature {
    /// It has troubles that end: from some request on it serves well.
    Troubled(Vec<Rule>),
    /// It gives something wrong for ever.
    Wrong(Vec<Rule>),
    /// Nobody listens there.
    Dead,
}

/// A restart of a server.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// When so many bytes of the image have been sent, by all servers together.
    pub at: u64,
    /// Which server.
    pub source: usize,
    /// How long it is gone.
    pub gone: Duration,
}

impl Schedule {
    /// The schedule of that number. At least one source is troubled at most, so the boot can succeed.
    pub fn of(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let multiple = random.u64(CHUNKS) * CHUNK;
        let size = match random.u8(0..4) {
            0 => multiple - 1,
            1 => multiple,
            2 => multiple + 1,
            _ => multiple - random.u64(1..CHUNK),
        };
        // Half of them stream, which needs a manifest.
        let (streams, vouched) = match random.u8(0..6) {
            0..3 => (true, Vouched::Manifest),
            3 => (false, Vouched::Manifest),
            4 => (false, Vouched::Checksum),
            _ => (false, Vouched::Not),
        };
        let count = random.usize(1..=usize::from(SOURCES));
        let reliable = random.usize(..count);
        let sources = (0..count).map(|index| nature(&mut random, size, vouched, index == reliable)).collect();
        let kills = (0..random.u8(0..3)).map(|_| random.u64(..size)).collect();
        let restarts = (0..random.u8(0..3)).map(|_| Restart {
            at: random.u64(..size),
            source: random.usize(..count),
            gone: Duration::from_millis(random.u64(..700)),
        });
        let restarts = restarts.collect();
        let restarted = (streams && random.u8(0..4) == 0).then(|| Duration::from_millis(random.u64(..3000)));
        Self { size, vouched, sources, kills, restarts, streams, restarted }
    }

    /// Whether the source that ends well gives the first chunk wrong at first: it is asked for that again when no other one
    /// can be, and the rest may be whole by then.
    pub fn first_chunk_may_be_last(&self) -> bool {
        let is_wrong = |rule: &Rule| matches!(rule.fault, Fault::WrongBytes(_));
        self.sources.iter().any(|source| matches!(source, Nature::Troubled(rules) if rules.iter().any(is_wrong)))
    }
}

fn nature(random: &mut Rng, size: u64, vouched: Vouched, reliable: bool) -> Nature {
    match random.u8(0..4) {
        0 if !reliable => Nature::Dead,
        1 if !reliable => Nature::Wrong(wrong(random, size, vouched)),
        _ => Nature::Troubled(troubles(random, size, vouched)),
    }
}

/// Troubles of single requests, of the image and of what lies beside it.
fn troubles(random: &mut Rng, size: u64, vouched: Vouched) -> Vec<Rule> {
    let mut rules = Vec::new();
    for suffix in ["", "", "", "", ".manifest", ".chunks", ".sha256"] {
        if random.bool() {
            continue;
        }
        let path = format!("{PATH}{suffix}");
        let length = if suffix.is_empty() { size } else { 600 };
        let when =
            random.choice([When::First(1), When::First(2), When::Nth(2), When::Nth(3)]).unwrap_or(When::First(1));
        rules.push(Rule::of(&path, when, trouble(random, length)));
    }
    if random.u8(0..3) == 0 {
        rules.extend(lies::once(lie(random, vouched)));
    }
    // Slow enough for kills and restarts to hit, and for a boot to take a second or two.
    let rate = random.u64(1 << 20..8 << 20);
    rules.push(Rule::of(PATH, When::Always, Fault::Rate(rate)));
    if random.u8(0..6) == 0 {
        rules.push(Rule::of(PATH, When::Always, Fault::Close));
    }
    rules
}

/// Something that another try mends.
fn trouble(random: &mut Rng, length: u64) -> Fault {
    let edge = random.u64(..=length / CHUNK) * CHUNK + random.u64(..3);
    let place = if random.bool() { random.u64(..length) } else { edge.saturating_sub(1).min(length - 1) };
    match random.u8(0..14) {
        0 => Fault::Status(random.choice([408, 500, 502, 503, 504]).unwrap_or(503)),
        1 => Fault::RetryAfter(random.choice([429, 503]).unwrap_or(429), 1),
        2 => Fault::Hangup,
        3 => Fault::Delay(Duration::from_millis(random.u64(..900))),
        4 => Fault::Delay(FOR_EVER),
        5 => Fault::CutAfter(place),
        6 | 7 => Fault::CutAt(place),
        8 => Fault::StallAfter(place, FOR_EVER),
        9 => Fault::StallAt(place),
        10 => Fault::NoLength,
        11 => Fault::FreshEtag,
        12 => Fault::IgnoreRange,
        _ => Fault::Close,
    }
}

/// Something that stays wrong.
fn wrong(random: &mut Rng, size: u64, vouched: Vouched) -> Vec<Rule> {
    let always = |fault| Rule::of(PATH, When::Always, fault);
    if vouched == Vouched::Manifest && random.bool() {
        return (0..3).map(|_| always(Fault::FlipBit(random.u64(..size)))).collect();
    }
    lie(random, vouched).into_iter().map(always).collect()
}

/// Something false; where nothing vouches for the bytes, nothing that would be had for true.
fn lie(random: &mut Rng, vouched: Vouched) -> Vec<Fault> {
    let unseen = |fault: &Fault| matches!(fault, Fault::FlipBit(_) | Fault::WrongBytes(_) | Fault::WrongLength(_));
    let mut lies = lies::all();
    lies.retain(|(_, faults)| vouched != Vouched::Not || !faults.iter().any(unseen));
    random.choice(lies).map(|(_, faults)| faults).unwrap_or_default()
}
