//! Servers and fetch workers that come and go.

use super::{PATH, Published, SIZE, SOON, Scene, URL, Vouched, arrives, machine, seed, thrifty};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::role;
use rootbeam_qemu_tests::claim::{claim, equal, row};
use rootbeam_qemu_tests::netns::{self, Dhcp, Network};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: a server that is absent for the first 4 s is waited for", || absent(4)),
        claim("fetching: a server that is restarted every half second serves a boot", || {
            restarted(Duration::from_millis(500), 2 << 20)
        }),
        claim("fetching: fetch workers that are killed at random moments lose nothing", killed),
        claim("fetching: what a lease says that was asked for anew counts, not what the first one said", leased_anew),
    ]
}

pub fn rows() -> Vec<Trial> {
    vec![
        row("matrix: a server that is absent for the first 60 s is waited for", &[netns::available], || absent(60)),
        row("matrix: a server that is restarted every 2 s serves a boot", &[netns::available], || {
            restarted(Duration::from_secs(2), 500_000)
        }),
    ]
}

fn absent(seconds: u64) -> Result<()> {
    let image = Published::new(SIZE, 1)?;
    let network = Network::new()?;
    let begun = Instant::now();
    let guest = machine(&network, "")?.limit(SOON + Duration::from_secs(seconds)).start()?;
    let console = guest.console().wait_for("the server refused the connection; next try in", SOON)?;
    ensure!(console.contains(URL), "{console}");
    std::thread::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed()));
    let http = network.http(image.site(Vouched::Manifest)?)?;
    arrives(guest, &image)?;
    thrifty(http.sent(PATH), image.size())
}

/// Cut and gone for a moment each time; `rate` bytes a second and connection, so that it takes several times.
fn restarted(period: Duration, rate: u64) -> Result<()> {
    let Scene { image, network, mut http } = Scene::new([Rule::of(PATH, When::Always, Fault::Rate(rate))])?;
    let guest = machine(&network, "")?.start()?;
    let mut restarts = 0;
    while http.sent(PATH) < image.size() && restarts < 60 {
        std::thread::sleep(period.mul_f32(0.9));
        http.stop();
        std::thread::sleep(period.mul_f32(0.1));
        http.resume(network.listen(80)?)?;
        restarts += 1;
    }
    ensure!(restarts >= 2, "the image came too fast for a restart");
    let arrived = arrives(guest, &image)?;
    ensure!(arrived.about.tally.failures >= 1, "{:?}", arrived.about.tally);
    Ok(())
}

fn killed() -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed("fetch workers killed")?);
    let scene = Scene::new([Rule::of(PATH, When::Always, Fault::Rate(3 << 20))])?;
    let guest = scene.machine("")?.start()?;
    let mut kills = 0;
    for _ in 0..4 {
        // Somewhere in the next quarter of the image.
        let at = scene.http.sent(PATH) + random.u64(1..SIZE / 4);
        if scene.http.wait_sent(PATH, at.min(SIZE), SOON).is_err() {
            break;
        }
        if let Ok(Some(worker)) = guest.worker(role::FETCH) {
            kills += u32::from(rustix::process::kill_process(worker, rustix::process::Signal::KILL).is_ok());
        }
    }
    let arrived = arrives(guest, &scene.image)?;
    let restarts = arrived.report.worker_restarts;
    ensure!((1..=kills).contains(&restarts), "{kills} were killed, and {restarts} started again");
    Ok(())
}

/// The net worker dies while the image comes, and by then the server names another name server.
fn leased_anew() -> Result<()> {
    let mut scene = Scene::new([Rule::of(PATH, When::Always, Fault::Rate(1 << 20))])?;
    let guest = scene.machine("")?.start()?;
    scene.http.wait_sent(PATH, 1 << 20, SOON)?;
    scene.network.stop_dhcp();
    let network = std::mem::replace(&mut scene.network, Network::subnet(78)?);
    let arguments = vec!["--dhcp-option=6,10.77.0.3".to_owned()];
    scene.network = network.dhcp(Dhcp { arguments, ..Dhcp::default() })?;
    let worker = guest.worker(role::NET)?.context("no net worker")?;
    rustix::process::kill_process(worker, rustix::process::Signal::KILL)?;
    let arrived = arrives(guest, &scene.image)?;
    equal(&arrived.report.worker_restarts, &1)?;
    let network = arrived.report.network.context("no network in the report")?;
    equal(&network.dns, &vec![IpAddr::from([10, 77, 0, 3])])
}
