//! A machine that is told to end before its image is whole ends, whether or not the rest can still come.

use super::inits::Node;
use crate::fetching::seed;
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{claim, equal, row};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::{images, qemu};
use std::time::Duration;

const NEEDS: &[fn() -> Result<()>] = &[qemu::available, images::debian];

pub fn claims() -> Vec<Trial> {
    vec![
        claim("streaming: systemd powers off though the server is gone", NEEDS, || {
            ends(systemd()?, server_gone, |node| node.guest.press_power(), Outcome::PoweredOff)
        }),
        claim("streaming: systemd restarts though the link is dead", NEEDS, || {
            ends(systemd()?, link_dead, |node| node.guest.type_keys("systemctl reboot\n"), Outcome::Restarted)
        }),
        claim("streaming: sysvinit powers off though the server is gone", NEEDS, || {
            ends(sysvinit()?, server_gone, |node| node.guest.type_keys("poweroff\n"), Outcome::PoweredOff)
        }),
        claim("streaming: sysvinit restarts though the link is dead", NEEDS, || {
            ends(sysvinit()?, link_dead, |node| node.guest.type_keys("reboot\n"), Outcome::Restarted)
        }),
        claim("streaming: busybox init powers off though the server is gone", &[qemu::available], || {
            ends(busybox()?, server_gone, |node| node.guest.type_keys("poweroff\n"), Outcome::PoweredOff)
        }),
        claim("streaming: busybox init restarts though the link is dead", &[qemu::available], || {
            ends(busybox()?, link_dead, |node| node.guest.type_keys("reboot\n"), Outcome::Restarted)
        }),
    ]
}

pub fn rows() -> Vec<Trial> {
    let trial = |number| {
        let name = format!("streaming: systemd powers off at a random moment, {number}");
        row(&name.clone(), NEEDS, move || at_random(seed(&name)?))
    };
    (1..=4).map(trial).collect()
}

/// Bytes a second: when a system has come to its login, much is still missing.
const RATE: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(15);

fn systemd() -> Result<Node> {
    let web = images::web()?;
    let mut node = Node::start(&web.image, &web.kernel()?, "web-node", RATE)?;
    node.guest.settle()?;
    Ok(node)
}

fn sysvinit() -> Result<Node> {
    Node::start(&images::sysvinit()?, &packages::kernel(Suite::Bookworm)?, "sysvinit-node", RATE / 4)
}

fn busybox() -> Result<Node> {
    Node::start(&images::busybox()?, &packages::kernel(Suite::Bookworm)?, "busybox-node", RATE / 4)
}

fn server_gone(node: &mut Node) -> Result<()> {
    node.http.stop();
    Ok(())
}

fn link_dead(node: &mut Node) -> Result<()> {
    node.guest.set_carrier(0, false)
}

type Act = fn(&mut Node) -> Result<()>;

fn ends(mut node: Node, trouble: Act, ask: Act, outcome: Outcome) -> Result<()> {
    let status = node.status()?;
    ensure!(!status.complete && status.verified < status.total / 10 * 9, "{status:?}");
    trouble(&mut node)?;
    ask(&mut node)?;
    let (ended, took) = node.guest.finish_timed()?;
    equal(&ended.outcome, &outcome)?;
    ensure!(took < SOON, "it took {took:?}; at the beginning {status:?}");
    Ok(())
}

fn at_random(seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut node = systemd()?;
    let trouble: Act = *random.choice(&[server_gone as Act, link_dead, |_| Ok(())]).unwrap_or(&(server_gone as Act));
    if random.bool() {
        // Something that waits for what has not come.
        node.guest.type_keys("cat /usr/bin/* /usr/lib/x86_64-linux-gnu/* >/dev/null 2>&1 </dev/null &\n")?;
    }
    trouble(&mut node)?;
    std::thread::sleep(Duration::from_millis(random.u64(..20_000)));
    node.guest.press_power()?;
    let (ended, took) = node.guest.finish_timed()?;
    equal(&ended.outcome, &Outcome::PoweredOff)?;
    ensure!(took < SOON, "it took {took:?}");
    Ok(())
}
