//! Boots under random faults, half of them streaming, some of which restart at a random moment: a schedule a number.
//! `make soak` makes a thousand, `make test` a dozen, new ones each time; the name of each tells its number, and
//! `make soak SEED=NUMBER SOAK=1` makes it again.

use super::super::streaming;
use super::schedule::{Nature, Schedule};
use super::{PATH, Published, SOON, Vouched, arrives, number};
use anyhow::{Context, Result, ensure};
use libtest_mimic::{Completion, Trial};
use rootbeam_init::messages::Trust;
use rootbeam_init::settings::values::Mode;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic, fetcher};
use rootbeam_qemu_tests::servers::http::HttpServer;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How many schedules are a sample.
const SAMPLE: u64 = 12;

/// A few, of `make test`.
pub fn sample() -> Vec<Trial> {
    schedules(fastrand::u64(..1 << 48), SAMPLE)
}

/// As many as asked for, or `None` if there is nothing to soak. Those that have not begun after the minutes of
/// `ROOTBEAM_SOAK_MINUTES` are skipped aloud.
pub fn asked_for() -> Result<Option<Vec<Trial>>> {
    let Some(count) = number("ROOTBEAM_SOAK")? else { return Ok(None) };
    let first = number("ROOTBEAM_SEED")?.unwrap_or_else(|| fastrand::u64(..1 << 48));
    let minutes = number("ROOTBEAM_SOAK_MINUTES")?.unwrap_or(60);
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let trials = (first..first.saturating_add(count)).map(|seed| {
        Trial::ignorable_test(name(seed), move || {
            if Instant::now() > end {
                return Ok(Completion::ignored_with(format!("the {minutes} minutes are over")));
            }
            held(seed).map(|()| Completion::Completed).map_err(|error| format!("{error:#}").into())
        })
    });
    netns::available()?;
    Ok(Some(trials.collect()))
}

fn schedules(first: u64, count: u64) -> Vec<Trial> {
    let seeds = first..first + count;
    seeds.map(|seed| claim(&name(seed), &[netns::available], move || held(seed))).collect()
}

fn name(seed: u64) -> String {
    match Schedule::of(seed).restarted {
        Some(_) => format!("soak: under random faults of schedule {seed} the machine restarts in time"),
        None => format!("soak: random faults of schedule {seed} end in the very image"),
    }
}

fn held(seed: u64) -> Result<()> {
    let schedule = Schedule::of(seed);
    run(&schedule, seed).with_context(|| format!("make soak SOAK=1 SEED={seed} makes it again: {schedule:#?}"))
}

fn run(schedule: &Schedule, seed: u64) -> Result<()> {
    let image = Published::new(schedule.size, seed)?;
    let network = Network::new()?;
    let (mut servers, mut urls) = (Vec::new(), Vec::new());
    for (nature, port) in schedule.sources.iter().zip(81..) {
        urls.push(format!("http://10.77.0.1:{port}{PATH}"));
        servers.push(match nature {
            Nature::Dead => Server { port, http: None },
            Nature::Troubled(rules) | Nature::Wrong(rules) => {
                let http = network.http_on(port, image.site(schedule.vouched)?)?.faults(rules.iter().cloned());
                Server { port, http: Some(Mutex::new(http)) }
            }
        });
    }
    let mode = if schedule.streams { "auto" } else { "ram" };
    let words =
        format!("rootbeam.image={} rootbeam.mode={mode} rootbeam.on-failure=poweroff rootbeam.stall=1", urls.join(","));
    let boot = Boot::new(&archives::for_namespaces()?).nic(Nic::on(&network)).cmdline(&words).limit(SOON);
    let guest = boot.start()?;
    let (init, over, kills) = (guest.pid()?, AtomicBool::new(false), AtomicU32::new(0));
    let arrived = std::thread::scope(|scope| {
        let disturbing = scope.spawn(|| disturb(schedule, &network, &servers, init, &over, &kills));
        // One that streams meets some of its troubles while it is read.
        let arrived = match (schedule.streams, schedule.restarted) {
            (true, Some(after)) => streaming::restarts(guest, &image.bytes, after),
            (true, None) => streaming::arrives(guest, &image.bytes),
            (false, _) => arrives(guest, &image).map(|arrived| arrived.report),
        };
        over.store(true, Ordering::Relaxed);
        disturbing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        arrived
    })?;
    let about = arrived.image.as_ref().context("no image in the report")?;
    let expected = match schedule.vouched {
        Vouched::Manifest | Vouched::Checksum => Trust::Checksummed,
        Vouched::Not => Trust::Unverified,
    };
    equal(&about.trust, &expected)?;
    if schedule.streams {
        let by_chunks = schedule.vouched == Vouched::Manifest;
        // One that is whole in the moment in which it could be served is not.
        let streamed = arrived.mode == Some(Mode::Stream) || schedule.first_chunk_may_be_last();
        ensure!(!by_chunks || streamed, "it was not streamed: {arrived:?}");
        ensure!(by_chunks || (arrived.mode == Some(Mode::Ram) && !arrived.not_streamed.is_empty()), "{arrived:?}");
    }
    equal(&about.sources, &urls)?;
    let (killed, restarts) = (kills.into_inner(), arrived.worker_restarts);
    ensure!(restarts <= killed, "{killed} fetch workers were killed, and {restarts} workers started again");
    Ok(())
}

struct Server {
    port: u16,
    http: Option<Mutex<HttpServer>>,
}

impl Server {
    fn with<T>(&self, what: impl FnOnce(&mut HttpServer) -> T) -> Option<T> {
        let http = self.http.as_ref()?;
        Some(what(&mut http.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}

/// Kills and restarts, each when so many bytes of the image were sent, until all is done or the boot is over.
fn disturb(
    schedule: &Schedule,
    network: &Network,
    servers: &[Server],
    init: u32,
    over: &AtomicBool,
    kills: &AtomicU32,
) -> Result<()> {
    let mut kill_at = schedule.kills.clone();
    let mut restarts = schedule.restarts.clone();
    while !over.load(Ordering::Relaxed) && (kill_at.len() + restarts.len() > 0) {
        let sent: u64 = servers.iter().filter_map(|server| server.with(|http| http.sent(PATH))).sum();
        if let Some(due) = kill_at.iter().position(|at| *at <= sent) {
            kill_at.swap_remove(due);
            // The machine may have ended in this instant, and so may its worker.
            if let Ok(Some(fetcher)) = fetcher(init) {
                kills.fetch_add(1, Ordering::Relaxed);
                let _ = rustix::process::kill_process(fetcher, rustix::process::Signal::KILL);
            }
        }
        if let Some(due) = restarts.iter().position(|restart| restart.at <= sent) {
            let restart = restarts.swap_remove(due);
            if let Some(server) = servers.get(restart.source).filter(|server| server.http.is_some()) {
                server.with(HttpServer::stop);
                std::thread::sleep(restart.gone);
                let listener = network.listen(server.port)?;
                server.with(|http| http.resume(listener)).transpose()?;
            }
        }
        // Every server's count would have to be waited for at once.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
