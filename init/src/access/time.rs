//! The time that certificates are judged by: the wall clock, never before the build, until a time server is asked since
//! a certificate fails for time; from then on its word. PID 1 is told, which may raise the wall clock.

use super::sntp;
use crate::clock::{Utc, is_plausible};
use crate::contract;
use crate::settings::Settings;
use crate::sys::{machine, names};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long one server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many addresses are asked before it is given up.
const ASKED: usize = 6;
/// How long after one round of questions no other begins: the answer would be the same, or none.
const AGAIN: Duration = Duration::from_secs(60);

/// A clock of this process alone.
#[derive(Debug)]
pub struct Clock {
    built: u64,
    /// What a time server said, and at which uptime. The wall clock does not count any more: PID 1 sets it by the same
    /// word, and a time daemon of the booted system may set it again.
    word: Mutex<Option<(u64, Duration)>>,
    /// Whether it was set, and PID 1 does not know.
    news: AtomicBool,
}

impl Clock {
    /// The wall clock, but never before `built`, in seconds since 1970.
    pub fn new(built: u64) -> Self {
        Self { built, word: Mutex::new(None), news: AtomicBool::new(false) }
    }

    /// Seconds since 1970.
    pub fn now(&self) -> u64 {
        self.at(machine::wall_clock(), machine::uptime())
    }

    /// The same where the wall clock says `wall`, at `uptime`.
    fn at(&self, wall: u64, uptime: Duration) -> u64 {
        let since = |(seconds, then): (u64, Duration)| seconds.saturating_add(uptime.saturating_sub(then).as_secs());
        self.word().map_or(wall, since).max(self.built)
    }

    /// It was `seconds` since 1970 at `uptime`.
    fn set(&self, seconds: u64, uptime: Duration) {
        if let Ok(mut word) = self.word.lock() {
            *word = Some((seconds, uptime));
            self.news.store(true, Ordering::Relaxed);
        }
    }

    fn word(&self) -> Option<(u64, Duration)> {
        self.word.lock().ok().and_then(|word| *word)
    }

    /// The time, in seconds since 1970, where it was set since this was last asked.
    pub fn told(&self) -> Option<u64> {
        self.news.swap(false, Ordering::Relaxed).then(|| self.now())
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now())))
    }
}

/// Who can be asked for the time.
#[derive(Debug, Default)]
pub struct TimeServers {
    /// From the command line, names or addresses, in order.
    given: Vec<String>,
    /// Where PID 1 writes down those of the lease, which comes after this was read.
    of_lease: Option<PathBuf>,
    /// Port, where it is not the usual one.
    port: Option<u16>,
    asked: Mutex<Option<Instant>>,
}

impl TimeServers {
    /// `rootbeam.ntp=`, then the server in `ip=`.
    pub fn new(settings: &Settings) -> Self {
        let fixed = settings.ip.as_ref().and_then(|ip| ip.time_server).map(|server| server.to_string());
        Self { given: settings.time_servers.iter().cloned().chain(fixed).collect(), ..Self::default() }
    }

    /// After these the servers of the lease, which this machine will have.
    pub fn and_those_of_the_lease(self) -> Self {
        Self { of_lease: Some(Path::new("/").join(contract::TIME_SERVERS)), ..self }
    }

    /// One server at a port of its own.
    pub fn at(server: SocketAddr) -> Self {
        Self { given: vec![server.ip().to_string()], port: Some(server.port()), ..Self::default() }
    }

    /// Asks for the time and sets `clock` by the first answer that can be true. Returns whether to try again by the
    /// clock: it was set, now or by a question a moment ago.
    pub fn correct(&self, clock: &Clock) -> bool {
        let Ok(mut asked) = self.asked.lock() else { return false };
        if asked.is_some_and(|at| at.elapsed() < AGAIN) {
            return clock.word().is_some();
        }
        let found = self.ask(clock.built);
        *asked = Some(Instant::now());
        let Some((server, seconds)) = found else { return false };
        log::warn!("the time server {server} says {}, this machine's clock {}", Utc(seconds), Utc(clock.now()));
        clock.set(seconds, machine::uptime());
        true
    }

    fn ask(&self, built: u64) -> Option<(IpAddr, u64)> {
        let file = self.of_lease.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let hosts = self.given.iter().map(String::as_str).chain(file.lines());
        let addresses = hosts.filter_map(|host| names::lookup(host).ok()).flatten();
        addresses.take(ASKED).find_map(|address| match query(address, self.port.unwrap_or(sntp::PORT), built) {
            Ok(seconds) if is_plausible(seconds, built) => Some((address, seconds)),
            Ok(seconds) => {
                log::warn!("the time server {address} says {}, which cannot be", Utc(seconds));
                None
            }
            Err(error) => {
                log::warn!("the time server {address} is of no help: {error}");
                None
            }
        })
    }
}

/// One question and its answer. The kernel drops what comes from other addresses, since the socket is connected; what
/// comes from this one and is no answer is waited past.
fn query(server: IpAddr, port: u16, about: u64) -> io::Result<u64> {
    let local: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect((server, port))?;
    let mut nonce = [0; 8];
    machine::random(&mut nonce);
    socket.send(&sntp::question(nonce))?;
    let end = Instant::now() + PATIENCE;
    // Longer answers carry extensions and a signature that nobody here can check.
    let mut packet = [0; 512];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut packet) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(e) => return Err(e),
        };
        match sntp::answer(packet.get(..length).unwrap_or_default(), nonce, about) {
            Ok(seconds) => return Ok(seconds),
            Err(sntp::Refused::Unsynchronized) => return Err(io::Error::other(sntp::Refused::Unsynchronized)),
            Err(sntp::Refused::Form | sntp::Refused::Origin) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const BUILT: u64 = 1_700_000_000;

    /// A server that answers each of `times` in turn, in seconds since 1970; 0 is an answer to another question.
    fn server(times: &'static [u64]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            for time in times {
                let mut packet = [0; sntp::LENGTH];
                let (_, client) = socket.recv_from(&mut packet).unwrap();
                packet.copy_within(40..48, 24);
                let seconds = (time + 2_208_988_800) as u32;
                packet[40..44].copy_from_slice(&seconds.to_be_bytes());
                packet[0] = 4 << 3 | 4;
                packet[1] = 3;
                // What was not asked comes first.
                let mut stranger = packet;
                stranger[24..32].fill(9);
                socket.send_to(&stranger, client).unwrap();
                socket.send_to(&packet, client).unwrap();
            }
        });
        address
    }

    #[test]
    fn a_server_sets_the_clock_forth_and_back_and_the_build_is_its_floor() {
        let clock = Clock::new(BUILT);
        assert!(clock.now().abs_diff(machine::wall_clock().max(BUILT)) < 10);
        let uptime = Duration::from_secs(7);
        for (time, now) in [(BUILT + 400_000_000, BUILT + 400_000_000), (BUILT + 5, BUILT + 5), (5, BUILT)] {
            clock.set(time, uptime);
            assert_eq!(clock.at(BUILT + 90, uptime), now);
        }
    }

    #[test]
    fn a_servers_word_counts_once_whoever_sets_the_wall_clock_after_it() {
        let clock = Clock::new(BUILT);
        let (word, uptime) = (BUILT + 100_000_000, Duration::from_secs(7));
        assert_eq!(clock.at(0, uptime), BUILT);
        clock.set(word, uptime);
        // As it was; as PID 1 sets it by that word; as a time daemon steps it, forth and back.
        for wall in [0, BUILT, word, word + 1, word + 7200, word - 7200] {
            for later in [0, 1, 3600] {
                assert_eq!(clock.at(wall, uptime + Duration::from_secs(later)), word + later, "{wall}");
            }
        }
    }

    #[test]
    fn an_answer_that_can_be_true_is_taken_and_not_asked_for_again() {
        let clock = Clock::new(BUILT);
        let servers = TimeServers::at(server(&[BUILT + 1000]));
        assert!(servers.correct(&clock));
        assert!(clock.now().abs_diff(BUILT + 1000) < 10);
        assert!(servers.correct(&clock), "the answer of a moment ago counts");
    }

    #[test]
    fn a_time_before_the_build_is_not_believed() {
        let clock = Clock::new(BUILT);
        let before = clock.now();
        assert!(!TimeServers::at(server(&[BUILT - 1])).correct(&clock));
        assert!(clock.now() - before < 10);
    }

    #[test]
    fn without_a_server_nothing_is_asked() {
        assert!(!TimeServers::default().correct(&Clock::new(BUILT)));
    }
}
