//! Whole boots by the shipped `/init`: what the real init finds is exactly what it should.

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::clock::Utc;
use rootbeam_init::identity::{Origin, firmware_uuid, machine_id};
use rootbeam_init::report::Report;
use rootbeam_initramfs::inspect;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::images::{self, published};
use rootbeam_qemu_tests::netns::{self, Boot, Network, Nic};
use rootbeam_qemu_tests::outcome::{Booted, Outcome};
use rootbeam_qemu_tests::packages::{self, Suite};
use rootbeam_qemu_tests::qemu;
use rootbeam_qemu_tests::servers::http::HttpServer;
use rootbeam_qemu_tests::servers::site::Site;
use rootbeam_qemu_tests::world::{Signals, World};
use std::path::{Path, PathBuf};

pub fn claims() -> Vec<Trial> {
    vec![
        claim(
            "boots: the real init finds exactly the world it should, in namespaces",
            &[netns::available],
            in_namespaces,
        ),
        claim("boots: the real init finds exactly the world it should, in QEMU on 6.1", &[qemu::available], in_qemu),
        claim("boots: the hand-over gives all memory back but the image's", &[qemu::available], memory),
        claim("boots: an image without a manifest boots and is called UNVERIFIED", &[netns::available], unverified),
        claim(
            "boots: a machine gets the same machine-id at every boot, and another machine another",
            &[netns::available],
            identity,
        ),
        claim("boots: a clock that stands in 1980 is raised to the build of the initramfs", &[qemu::available], clock),
        claim("boots: an erofs image boots like a squashfs", &[netns::available], erofs),
    ]
}

/// The report of a boot.
pub fn report(world: &World) -> Result<Report> {
    report_of(world.report.clone().context("no report.json")?)
}

/// A report by its JSON.
pub fn report_of(json: serde_json::Value) -> Result<Report> {
    serde_json::from_value(json).context("report.json is not a report")
}

/// What holds after every boot: the state that a real init may rely on.
pub fn assert_clean(world: &World) -> Result<()> {
    let numbers: Vec<u32> = world.descriptors.keys().copied().collect();
    equal(&numbers, &vec![0, 1, 2])?;
    ensure!(world.descriptors.values().all(|target| target == "/dev/console"), "{:?}", world.descriptors);
    equal(&world.signals, &Signals { blocked: 0, ignored: 0, caught: 0 })?;
    equal(&(world.umask, world.cwd.as_str(), world.pid), &(0o022, "/", 1))?;
    equal(&(world.credentials.uid, world.credentials.gid), &([0; 4], [0; 4]))?;
    ensure!(!world.credentials.no_new_privs, "no_new_privs is set");
    ensure!(world.other_processes().is_empty(), "{:?}", world.processes);
    let root = world.mount("/").context("no root mount")?;
    equal(&(root.kind.as_str(), root.source.as_str()), &("overlay", "rootbeam"))?;
    for forbidden in ["nosuid", "nodev", "noexec", "ro"] {
        ensure!(!root.options.iter().any(|option| option == forbidden), "{root:?}");
    }
    let lower = world.mount("/run/rootbeam/lower/0").context("no lower")?;
    ensure!(lower.options.iter().any(|option| option == "ro"), "{lower:?}");
    // In namespaces the loop devices of other machines are seen too.
    let about = world.loops.get(lower.source.trim_start_matches("/dev/")).context("no RAM disk")?;
    ensure!(about.autoclear && about.read_only, "{about:?}");
    ensure!(about.file.contains("rootbeam-image") || about.file.contains("memfd"), "{about:?}");
    Ok(())
}

fn in_namespaces() -> Result<()> {
    let folder = published(&images::probe()?, "probe.squashfs")?;
    let network = Network::new()?;
    let http = network.http(Site::new().folder(folder.path())?)?;
    let url = network.url("/probe.squashfs");
    let booted = Boot::new(&archives::for_namespaces()?)
        .nic(Nic::on(&network).mac("52:54:00:00:00:81"))
        .cmdline(&format!("rootbeam.image={url} colour=blue word -- after"))
        .run()?;
    let world = booted.world()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    assert_clean(world)?;
    equal(&world.args, &["/sbin/init", "word", "after"].map(str::to_owned).to_vec())?;
    let points: Vec<&str> = world.mount_points();
    let expected = [
        "/",
        "/dev",
        "/dev/console",
        "/proc",
        "/proc/cmdline",
        "/sys",
        "/run",
        "/run/rootbeam/lower/0",
        "/run/rootbeam/rw",
    ];
    let sorted = |mut points: Vec<&str>| {
        points.sort_unstable();
        points.join(" ")
    };
    equal(&sorted(points), &sorted(expected.to_vec()))?;
    equal(&world.env.get("colour").map(String::as_str), &Some("blue"))?;
    let report = report(world)?;
    equal(&report.verification.split(':').next(), &Some("checksummed"))?;
    equal(&(report.worker_restarts, report.failures.len(), report.warnings.len()), &(0, 0, 0))?;
    let image = report.image.context("no image in the report")?;
    let size = std::fs::metadata(folder.path().join("probe.squashfs"))?.len();
    equal(&(image.size, image.tally.verified, image.tally.rejected_chunks), &(size, size, 0))?;
    equal(&http.sent("/probe.squashfs"), &size)?;
    let resolver = world.resolv_conf.clone().context("no resolv.conf")?;
    ensure!(resolver.contains("nameserver 10.77.0.1"), "{resolver}");
    ensure!(world.boot_log.as_deref().is_some_and(|log| log.contains("handing over to /sbin/init")));
    Ok(())
}

fn in_qemu() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = published(&images::probe()?, "probe.squashfs")?;
    let http = HttpServer::on_loopback(Site::new().folder(folder.path())?)?;
    let url = format!("http://{}:{}/probe.squashfs", qemu::HOST, http.address().port());
    let booted = qemu::Boot::new(&kernel, &archives::for_qemu(&kernel)?)
        .nic(qemu::Nic::user().mac("52:54:00:00:00:82"))
        .uuid("12345678-1234-5678-1234-567812345678")
        .cmdline(&format!("rootbeam.image={url} colour=blue"))
        .run()?;
    let world = booted.world()?;
    equal(&booted.outcome, &Outcome::PoweredOff)?;
    assert_clean(world)?;
    equal(&world.args, &vec!["/sbin/init".to_owned()])?;
    let mut points = world.mount_points();
    points.sort_unstable();
    equal(&points.join(" "), &"/ /dev /proc /run /run/rootbeam/lower/0 /run/rootbeam/rw /sys".to_owned())?;
    let mut names: Vec<&str> = world.env.keys().map(String::as_str).collect();
    names.sort_unstable();
    equal(&names.join(" "), &"HOME TERM colour".to_owned())?;
    // The id of that UUID for good.
    equal(&world.machine_id.as_deref(), &Some("34e56f4ccf834f4cb0cd7d4a80983b84\n"))?;
    ensure!(world.modules.iter().any(|module| module == "virtio_net"), "{:?}", world.modules);
    ensure!(!world.modules.iter().any(|module| module == "e1000"), "a driver without a device: {:?}", world.modules);
    Ok(())
}

/// Beside the shell initramfs, whose switch_root deletes everything and which holds the same image the same way.
fn memory() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = published(&images::probe()?, "probe.squashfs")?;
    let http = HttpServer::on_loopback(Site::new().folder(folder.path())?)?;
    let url = format!("http://{}:{}/probe.squashfs", qemu::HOST, http.address().port());
    let in_use = |archive: &Path, words: String| -> Result<u64> {
        let boot = qemu::Boot::new(&kernel, archive).nic(qemu::Nic::user()).memory(512).cmdline(&words);
        Ok(boot.run()?.world()?.memory_in_use())
    };
    // What is free is a matter of when the kernel gives back what the dead held, and differs by more than 1 MB from boot
    // to boot: the least of a few boots of each counts.
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        theirs.push(in_use(&archives::baseline(&kernel)?, format!("img={url}"))?);
        ours.push(in_use(&archives::for_qemu(&kernel)?, format!("rootbeam.image={url}"))?);
        if ours.iter().min() < theirs.iter().map(|theirs| theirs + 1_000_000).min().as_ref() {
            return Ok(());
        }
    }
    bail!("{ours:?} bytes are in use, {theirs:?} after the shell initramfs")
}

fn boot_image(image: &Path, name: &str, words: &str) -> Result<Booted> {
    boot_on("52:54:00:00:00:83", image, name, words)
}

/// The same on a machine of its own.
fn boot_on(mac: &str, image: &Path, name: &str, words: &str) -> Result<Booted> {
    let network = Network::new()?;
    let _http = network.http(Site::new().file(&format!("/{name}"), image))?;
    let url = network.url(&format!("/{name}"));
    Boot::new(&archives::for_namespaces()?)
        .nic(Nic::on(&network).mac(mac))
        .cmdline(&format!("rootbeam.image={url} rootbeam.on-failure=poweroff {words}"))
        .run()
}

fn unverified() -> Result<()> {
    let booted = boot_image(&images::probe()?, "probe.squashfs", "")?;
    let world = booted.world()?;
    assert_clean(world)?;
    let verification = report(world)?.verification;
    ensure!(verification.starts_with("UNVERIFIED"), "{verification}");
    ensure!(booted.console.contains("UNVERIFIED"), "{}", booted.console);
    Ok(())
}

fn identity() -> Result<()> {
    let image = images::probe()?;
    let id = |mac: &str| -> Result<String> {
        let booted = boot_on(mac, &image, "probe.squashfs", "")?;
        booted.world()?.machine_id.clone().context("no machine-id")
    };
    let [first, again, other] = ["52:54:00:00:00:83", "52:54:00:00:00:83", "52:54:00:00:00:84"].map(id);
    let (first, other) = (first?, other?);
    equal(&again?, &first)?;
    // All machines of this bed have the firmware of the host: where that has a UUID, they are one machine by it.
    let uuid = std::fs::read_to_string("/sys/class/dmi/id/product_uuid").unwrap_or_default();
    let of = |last| machine_id(&Origin::choose(&uuid, [0x52, 0x54, 0, 0, 0, last]));
    equal(&(&first, &other), &(&of(0x83), &of(0x84)))?;
    ensure!(first != other || firmware_uuid(&uuid).is_some(), "two machines have the id {first}");
    Ok(())
}

fn clock() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let archive = archives::for_qemu(&kernel)?;
    let built = inspect::Report::of(&std::fs::read(&archive)?)?.build_time.context("no build time")?;
    let http = HttpServer::on_loopback(Site::new().file("/probe.squashfs", &images::probe()?))?;
    let booted = qemu::Boot::new(&kernel, &archive)
        .nic(qemu::Nic::user())
        .clock("1980-01-01")
        .cmdline(&format!("rootbeam.image=http://{}:{}/probe.squashfs", qemu::HOST, http.address().port()))
        .run()?;
    let world = booted.world()?;
    assert_clean(world)?;
    let since = world.clock.checked_sub(built).with_context(|| format!("the clock says {}", Utc(world.clock)))?;
    ensure!(since < 240, "the clock says {}, the build was at {}", Utc(world.clock), Utc(built));
    let said = format!("clock: it was behind the build of this initramfs and was raised to {}", Utc(built));
    ensure!(world.boot_log.as_deref().is_some_and(|log| log.contains(&said)), "{:?}", world.boot_log);
    Ok(())
}

fn erofs() -> Result<()> {
    let image: PathBuf = images::probe_tree()?.erofs("probe")?;
    let booted = boot_image(&image, "probe.erofs", "")?;
    let world = booted.world()?;
    assert_clean(world)?;
    let lower = world.mount("/run/rootbeam/lower/0").context("no lower")?;
    equal(&lower.kind.as_str(), &"erofs")
}
