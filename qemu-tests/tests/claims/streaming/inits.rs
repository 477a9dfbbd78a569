//! Real inits on an image that is on its way: they come to a login, what they do with processes that they did not start
//! spares the workers, and when the image is whole nothing is left.

use super::padded;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::role;
use rootbeam_init::digest::Sha256;
use rootbeam_init::streaming::keeper::Status;
use rootbeam_qemu_tests::claim::{claim, equal, row};
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::packages::{self, Kernel, Suite};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::{archives, command, images, qemu};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub fn claims() -> Vec<Trial> {
    vec![
        claim(
            "streaming: systemd's start, reexec and isolate spare the workers, in its init.scope",
            &[qemu::available, images::debian],
            systemd,
        ),
        claim(
            "streaming: sysvinit's killing of all processes spares the workers",
            &[qemu::available, images::debian],
            sysvinit,
        ),
        claim(
            "streaming: killall5 spares whom sysvinit lists, and without the list what is missing fails to be read",
            &[qemu::available, images::debian],
            killall5,
        ),
    ]
}

pub fn rows() -> Vec<Trial> {
    vec![row(
        "streaming: a memory hog and a sleep spare the workers",
        &[qemu::available, images::debian],
        hog_and_sleep,
    )]
}

/// Where the image is on the server.
const PATH: &str = "/image";
/// How long anything is waited for.
const SOON: Duration = Duration::from_secs(120);
/// Bytes of noise behind the filesystem.
const TAIL: usize = 8 << 20;
/// The byte of it that does not come. udev looks for signatures at the end of each device, and would wait there.
const HELD_BACK: usize = 2 << 20;
/// Bytes a second: all of the image would take as long as the start of a system.
const RATE: u64 = 4 << 20;

/// A machine at its login, on an image that will not be whole before [`Node::release`].
pub(super) struct Node {
    pub(super) guest: qemu::Guest,
    pub(super) http: HttpServer,
    image: Vec<u8>,
    _folder: TempDir,
}

/// A worker, as the machine itself sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    name: String,
    pid: u32,
    cgroup: String,
}

impl Node {
    /// All of the image comes at `rate` bytes a second.
    pub(super) fn start(image: &Path, kernel: &Kernel, name: &str, rate: u64) -> Result<Self> {
        Self::start_with(image, kernel, name, rate, "")
    }

    /// The same with more words on the kernel's command line.
    pub(super) fn start_with(image: &Path, kernel: &Kernel, name: &str, rate: u64, words: &str) -> Result<Self> {
        let mut image = std::fs::read(image)?;
        let end = image.len();
        image.resize(end + TAIL, 0);
        fastrand::Rng::with_seed(end as u64).fill(image.get_mut(end..).unwrap_or_default());
        let folder = images::published_bytes(&image, PATH.trim_start_matches('/'))?;
        let stall = Fault::StallAt((end + HELD_BACK) as u64);
        let http = HttpServer::on_loopback(Site::new().folder(folder.path())?)?
            .faults([Fault::Rate(rate), stall].map(|fault| Rule::of(PATH, When::Always, fault)));
        let url = format!("http://{}:{}{PATH}", qemu::HOST, http.address().port());
        let mut guest = qemu::Boot::new(kernel, &archives::for_qemu(kernel)?)
            .nic(qemu::Nic::user())
            // What the workers warn of would come between a command and its answer.
            .cmdline(&format!("quiet systemd.show_status=1 rootbeam.image={url} rootbeam.mode=stream {words}"))
            .memory(1024)
            .forward(80)
            .start()?;
        guest.log_in(name)?;
        Ok(Self { guest, http, image, _folder: folder })
    }

    pub(super) fn status(&mut self) -> Result<Status> {
        let text = self.guest.shell("cat /run/rootbeam/stream/status.json")?;
        serde_json::from_str(text.trim()).with_context(|| format!("no status: {text}"))
    }

    /// The workers, by name.
    fn workers(&mut self) -> Result<Vec<Seen>> {
        let text = self.guest.shell(
            "for p in /proc/[0-9]*; do n=$(tr '\\0' ' ' <$p/cmdline 2>/dev/null); case $n in @rootbeam*) \
             echo \"seen: $n ${p#/proc/} $(tail -n 1 $p/cgroup)\";; esac; done",
        )?;
        let seen = |line: &str| {
            let mut words = line.strip_prefix("seen: ")?.split_whitespace();
            let (name, pid) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
            // Without a cgroup hierarchy there is none.
            Some(Seen { name, pid, cgroup: words.next().unwrap_or_default().to_owned() })
        };
        let mut workers: Vec<Seen> = text.lines().filter_map(seen).collect();
        workers.sort();
        Ok(workers)
    }

    /// Those that the image depends on; a fetch worker may be replaced at any time.
    pub(super) fn vital(&mut self) -> Result<Vec<Seen>> {
        let mut workers = self.workers()?;
        workers.retain(|worker| worker.name != role::FETCH);
        equal(
            &workers.iter().map(|worker| worker.name.as_str()).collect::<Vec<_>>(),
            &vec![role::KEEPER, role::NET, role::STORE],
        )?;
        Ok(workers)
    }

    /// Lets what was held back come; then nobody is left, and the RAM disk is the image.
    pub(super) fn release(&mut self) -> Result<()> {
        self.http.behave();
        self.http.cut();
        let deadline = Instant::now() + SOON;
        loop {
            let (status, workers) = (self.status()?, self.workers()?);
            if status.complete && workers.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "after {SOON:?}: {status:?} {workers:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        self.http.stop();
        // A soft reboot takes the mount away that names it.
        let sum = self.guest.shell("D=$(echo /sys/block/loop*/loop); D=${D%/loop}; sha256sum /dev/${D##*/}")?;
        equal(
            &sum.split(' ').next().unwrap_or_default().trim(),
            &Sha256::of(&padded(&self.image)).to_string().as_str(),
        )?;
        let left = self.guest.shell("ls /run/rootbeam/stream")?;
        equal(&left.trim(), &"status.json")
    }
}

fn systemd() -> Result<()> {
    let web = images::web()?;
    let mut node = Node::start(&web.image, &web.kernel()?, "web-node", RATE)?;
    ensure!(!node.status()?.complete, "it was complete before the login");
    let before = node.vital()?;
    // systemd moves what it finds in the root cgroup at its start into its own.
    ensure!(before.iter().all(|worker| worker.cgroup == "0::/init.scope"), "{before:?}");
    node.guest.shell("systemctl daemon-reexec")?;
    equal(&node.vital()?, &before)?;
    isolate(&mut node)?;
    equal(&node.vital()?, &before)?;
    equal(&node.guest.shell("systemctl --failed --no-legend | wc -l")?.trim(), &"0")?;
    ensure!(!node.status()?.complete, "it was complete before all of that");
    node.release()?;
    node.guest.press_power()?;
    equal(&node.guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

/// Has systemd end all but the console's login, and start the rest anew.
fn isolate(node: &mut Node) -> Result<()> {
    let before = node.vital()?;
    let address = node.guest.forwarded(80).context("no forwarded port")?;
    let page =
        || command::run_line(&format!("curl -sSf --retry 60 --retry-delay 1 --retry-all-errors http://{address}/"));
    page()?;
    // What ends before a target of its own is told by an order between the two (systemd.unit(5)).
    node.guest.shell(
        "printf '[Unit]\\nRequires=serial-getty@ttyS0.service\\nAfter=lighttpd.service\\nAllowIsolate=yes\\n' \
         >/run/systemd/system/alone.target; systemctl daemon-reload",
    )?;
    let server = "systemctl is-active lighttpd.service";
    equal(&node.guest.shell(server)?.trim(), &"active")?;
    node.guest.shell("systemctl isolate alone.target")?;
    equal(&node.guest.shell(server)?.trim(), &"inactive")?;
    equal(&node.vital()?, &before)?;
    node.guest.shell("systemctl isolate multi-user.target")?;
    page().map(drop)
}

fn hog_and_sleep() -> Result<()> {
    let web = images::web()?;
    let mut node = Node::start(&web.image, &web.kernel()?, "web-node", RATE)?;
    let before = node.vital()?;
    // It may take minutes until an emulated kernel finds that it has no memory left, unless it is told to keep what was used
    // within the last second (multigen_lru.rst).
    let lru = "/sys/kernel/mm/lru_gen";
    node.guest.shell(&format!("echo y >{lru}/enabled; echo 1000 >{lru}/min_ttl_ms"))?;
    // It holds all it reads, for there is no line's end in it. In a unit of its own, for the killer ends the whole unit.
    let killed = node.guest.shell(
        "systemd-run -q --wait tail /dev/zero </dev/null; dmesg | grep -c 'Out of memory: Killed process .*tail'",
    )?;
    equal(&killed.trim(), &"1")?;
    equal(&node.vital()?, &before)?;
    ensure!(!node.status()?.complete, "it was complete before the hog");
    // The kernel refuses that while a program reads through FUSE, for it freezes the store before the reader, and after the
    // hog much is read again.
    node.guest.sleep(5)?;
    equal(&node.guest.shell("dmesg | grep -c 'Waking up from system sleep state S3'")?.trim(), &"1")?;
    equal(&node.vital()?, &before)?;
    ensure!(!node.status()?.complete, "it was complete before the sleep");
    node.release()?;
    // After its sleep the emulated machine hears no power button and does not switch itself off.
    node.guest.type_keys("systemctl reboot\n")?;
    equal(&node.guest.finish(None)?.outcome, &Outcome::Restarted)
}

fn sysvinit() -> Result<()> {
    let mut node = Node::start(&images::sysvinit()?, &packages::kernel(Suite::Bookworm)?, "sysvinit-node", RATE)?;
    ensure!(!node.status()?.complete, "it was complete before the login");
    let before = node.vital()?;
    // What every shutdown does; this shell's session is spared as well.
    node.guest.shell("sleep 1000 </dev/null >/dev/null 2>&1 & setsid sleep 2000 & /etc/init.d/sendsigs stop")?;
    equal(&node.vital()?, &before)?;
    let others = node.guest.shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?;
    ensure!(!others.contains("sleep 2000"), "not everything was ended: {others}");
    ensure!(!node.status()?.complete, "it was complete before all of that");
    node.release()?;
    node.guest.type_keys("poweroff\n")?;
    equal(&node.guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

fn killall5() -> Result<()> {
    let mut node = Node::start(&images::sysvinit()?, &packages::kernel(Suite::Bookworm)?, "sysvinit-node", RATE)?;
    let before = node.vital()?;
    // With the list that sysvinit keeps, as its own scripts do.
    let spared = node.guest.shell("killall5 -9 $(sed 's/^/-o /' /run/sendsigs.omit.d/*); echo $?")?;
    equal(&spared.trim(), &"0")?;
    equal(&node.vital()?, &before)?;
    ensure!(!node.status()?.complete, "it was complete before all of that");
    node.guest.shell("killall5 -9")?;
    equal(&node.workers()?, &vec![])?;
    ensure!(!node.status()?.complete, "it was complete before it was lost");
    let read = node.guest.shell("D=$(echo /sys/block/loop*/loop); D=${D%/loop}; cat /dev/${D##*/} 2>&1 >/dev/null")?;
    ensure!(read.contains("Input/output error"), "{read}");
    node.guest.type_keys("echo b >/proc/sysrq-trigger\n")?;
    equal(&node.guest.finish(None)?.outcome, &Outcome::Restarted)
}
