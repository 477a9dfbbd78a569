//! The web node answers its page before its image is whole, and when it is whole needs nobody: on each kernel in QEMU, and
//! at native speed in a namespace, where the web server itself is PID 1.

use super::inits::Node;
use super::padded;
use crate::boots::report_of;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::streaming::keeper::Status;
use rootbeam_qemu_tests::claim::{Need, claim, equal, row};
use rootbeam_qemu_tests::command;
use rootbeam_qemu_tests::netns::{self, Network, Nic, web};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{images, qemu};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub fn claims() -> Vec<Trial> {
    vec![claim(
        "streaming: a web server as PID 1 answers its page before its image is whole",
        &[netns::available, images::debian],
        on_the_hosts_kernel,
    )]
}

pub fn rows() -> Vec<Trial> {
    const NEEDS: &[Need] = &[qemu::available, images::debian];
    let kernels = [(None, "6.1"), (Some(Suite::Trixie), "6.12"), (Some(Suite::Sid), "the newest kernel")];
    let row = |(suite, version)| {
        let name = format!("streaming: the web node on {version} answers its page before its image is whole");
        row(&name, NEEDS, move || in_qemu(suite))
    };
    kernels.into_iter().map(row).collect()
}

/// How long anything is waited for.
const SOON: Duration = Duration::from_secs(120);
/// Bytes a second in QEMU, where a system takes long to start, and in a namespace.
const RATE: u64 = 3 << 20;
const NATIVE_RATE: u64 = 8 << 20;
/// What the page says of its machine.
const TITLE: &str = "<h1>web-node lives in RAM</h1>";
/// What a RAM disk that stands by itself stands on.
const MEMORY: &str = "/memfd:rootbeam-image (deleted)";

fn page(address: SocketAddr) -> Result<String> {
    command::run_line(&format!(
        "curl --silent --show-error --fail --retry 120 --retry-delay 1 --retry-all-errors http://{address}/index.php"
    ))
}

/// On the kernel of a suite, else on the image's own.
fn in_qemu(suite: Option<Suite>) -> Result<()> {
    let web = images::web()?;
    let kernel = suite.map_or_else(|| web.kernel(), packages::kernel)?;
    let mut node = Node::start(&web.image, &kernel, "web-node", RATE)?;
    let page = page(node.guest.forwarded(80).context("no forwarded port")?)?;
    ensure!(page.contains(TITLE) && page.contains(&kernel.release), "{page}");
    ensure!(!node.status()?.complete, "it was complete before its page was answered");
    node.release()?;
    let stands =
        node.guest.shell("cat /sys/block/loop*/loop/backing_file; grep -cE ' fuse(blk|\\.[^ ]*)? ' /proc/mounts")?;
    equal(&stands.trim().replace('\n', " "), &format!("{MEMORY} 0"))?;
    // Its button would need a driver that the image has for its own kernel only.
    node.guest.type_keys("systemctl poweroff\n")?;
    equal(&node.guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

fn on_the_hosts_kernel() -> Result<()> {
    let file = images::web()?.image;
    let image = fs::read(&file)?;
    let folder = images::published(&file, "web.squashfs")?;
    let network = Network::new()?;
    let mut http = network.http(Site::new().folder(folder.path())?)?.faults([Rule::of(
        "/web.squashfs",
        When::Always,
        Fault::Rate(NATIVE_RATE),
    )]);
    let boot = web::boot(Nic::on(&network), &network.url("/web.squashfs"))?.cmdline("rootbeam.mode=stream").limit(SOON);
    let mut guest = boot.start()?;
    web::serve(&mut guest, SOON)?;
    let page = network.namespace().enter(|| page(web::ADDRESS))?;
    let page = page.with_context(|| guest.console().last_lines())?;
    ensure!(page.contains(TITLE), "{page}");
    let pid = guest.pid()?;
    let inside = |path: &str| web::text(&guest, path);
    let status = || -> Result<Status> { Ok(serde_json::from_str(&inside("/run/rootbeam/stream/status.json")?)?) };
    ensure!(!status()?.complete, "it was complete before its page was answered");
    let deadline = Instant::now() + SOON;
    let workers = || -> Result<bool> {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let named = |child: &str| fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        Ok(children.split_whitespace().any(|child| named(child).starts_with(b"@rootbeam")))
    };
    while !status()?.complete || workers()? {
        ensure!(Instant::now() < deadline, "{:?}\n{}", status()?, guest.console().last_lines());
        std::thread::sleep(Duration::from_millis(50));
    }
    http.stop();
    let report = report_of(serde_json::from_str(&inside("/run/rootbeam/report.json")?)?)?;
    let device = report.image.and_then(|image| image.device).context("no RAM disk in the report")?;
    ensure!(fs::read(&device)? == padded(&image), "{device} is not the image");
    let name = device.trim_start_matches("/dev/");
    equal(&fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"))?.trim(), &MEMORY)?;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    ensure!(!mounts.contains("fuse"), "{mounts}");
    Ok(())
}
