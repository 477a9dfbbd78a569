//! What manages the network of the booted system takes the link over while the image still comes through it, and a soft
//! reboot starts the system anew: the workers are spared, and the image becomes whole.

use super::inits::Node;
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::{equal, row};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::{images, qemu};
use std::time::{Duration, Instant};

const NEEDS: &[fn() -> Result<()>] = &[qemu::available, images::debian];

pub fn rows() -> Vec<Trial> {
    vec![
        row("streaming: systemd-networkd takes the link over", NEEDS, || {
            takes_over("systemd-networkd", "networkctl --no-legend list $LINK | cat", "routable configured")
        }),
        row("streaming: NetworkManager takes the link over", NEEDS, || {
            takes_over("NetworkManager", "nmcli -g GENERAL.STATE device show $LINK", "100 (connected")
        }),
        row("streaming: ifupdown takes the link over", NEEDS, || {
            takes_over("networking", "ifquery --state $LINK", "=ether")
        }),
        row("streaming: a soft reboot spares the workers, and so does one after the end", NEEDS, soft_reboot),
    ]
}

/// Bytes a second: all of the image would take as long as the start of a system.
const RATE: u64 = 2 << 20;
/// How long anything is waited for.
const SOON: Duration = Duration::from_secs(60);
const NAME: &str = "trixie-node";

fn start(words: &str) -> Result<Node> {
    Node::start_with(&images::trixie()?, &packages::kernel(Suite::Trixie)?, NAME, RATE, words)
}

/// The service is up when `question` is answered with `settled`.
fn takes_over(service: &str, question: &str, settled: &str) -> Result<()> {
    let mut node = start(&format!("systemd.wants={service}.service"))?;
    let before = node.vital()?;
    // From Linux 6.2 on udev gives the link another name though it is up.
    node.guest.shell("LINK=$(ls /sys/class/net | grep -v lo)")?;
    let deadline = Instant::now() + SOON;
    loop {
        let answer = node.guest.shell(question)?;
        if answer.split_whitespace().collect::<Vec<_>>().join(" ").contains(settled) {
            break;
        }
        ensure!(Instant::now() < deadline, "after {SOON:?} {question} says {answer}");
        std::thread::sleep(Duration::from_millis(500));
    }
    equal(&node.vital()?, &before)?;
    ensure!(!node.status()?.complete, "it was complete before {service} was up");
    node.release()?;
    let addresses = node.guest.shell("ip -4 -o address show dev $LINK scope global")?;
    equal(&addresses.lines().count(), &1)?;
    node.guest.type_keys("systemctl poweroff\n")?;
    equal(&node.guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

fn soft_reboot() -> Result<()> {
    let mut node = start("")?;
    let before = node.vital()?;
    again(&mut node)?;
    equal(&node.vital()?, &before)?;
    ensure!(!node.status()?.complete, "it was complete before the soft reboot");
    node.release()?;
    again(&mut node)?;
    equal(&node.guest.shell("systemctl --failed --no-legend | wc -l")?.trim(), &"0")?;
    node.guest.type_keys("systemctl poweroff\n")?;
    equal(&node.guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

/// Restarts all but the kernel, up to the next login.
fn again(node: &mut Node) -> Result<()> {
    node.guest.type_keys("systemctl soft-reboot\n")?;
    node.guest.log_in(NAME)
}
