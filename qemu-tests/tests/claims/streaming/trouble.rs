//! Servers and workers that come and go while the system runs.

use super::{NOISE, PATH, SOON, Scene, completion, identical, status};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::role;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::command::run;
use rootbeam_qemu_tests::netns::{self, Guest, fetcher};
use rootbeam_qemu_tests::probe::{Answer, Probe, Request};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub fn claims() -> Vec<Trial> {
    let starved = "streaming: a fetch worker that cannot be started is tried again until it can be";
    let starved = claim(starved, &[netns::available, || pids().map(drop)], no_fetcher);
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        starved,
        claim("streaming: a server that goes away is waited for, told of once, and gone on with", server_away),
        claim(
            "streaming: a chunk that is wrong from everybody is never read, and goes on when it is right",
            wrong_chunk,
        ),
        claim("streaming: a read that waits keeps nobody from reading what is there", reads_what_is_there),
        claim("streaming: with stall=eio a read fails in time, and the image is completed all the same", eio),
        claim("streaming: fetch workers that are killed while the system runs lose nothing", fetchers_killed),
        claim("streaming: a hundred reads in flight at the swap get the image's bytes", reads_at_the_swap),
        claim("streaming: a machine that is killed while something waits to be read ends, and its RAM disk", killed),
        claim("streaming: a served file that is lost is never called whole, and the console says what to do", lost),
        claim("streaming: rootbeam status tells how far the image is, and waits for the end", status_command),
    ]
}

/// What a machine did that streamed: its console, once it is off.
fn end(guest: Guest, probe: Probe, checked: Result<()>) -> Result<String> {
    checked.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    Ok(guest.finish(None)?.console)
}

/// The RAM disk.
pub fn device(probe: &mut Probe) -> Result<String> {
    let world = probe.world(SOON)?;
    Ok(world.mount("/run/rootbeam/lower/0").context("no lower")?.source.clone())
}

fn server_away() -> Result<()> {
    let mut scene = Scene::new()?;
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let device = device(&mut probe)?;
        scene.http.stop();
        let bytes = &scene.image;
        std::thread::scope(|scope| -> Result<()> {
            let reading = scope.spawn(|| identical(&mut probe, &device, bytes));
            guest.console().wait_for("something waits to be read that has not come yet", SOON)?;
            ensure!(!reading.is_finished(), "the image was read without a server");
            scene.http.resume(scene.network.listen(80)?)?;
            reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
        })?;
        completion(&mut probe).map(drop)
    })();
    let console = end(guest, probe, checked)?;
    equal(&console.matches("something waits to be read").count(), &1)?;
    equal(&console.matches("what waited to be read has come").count(), &1)
}

fn wrong_chunk() -> Result<()> {
    let scene = Scene::new()?;
    // In the noise, which nothing but the reader below reads.
    let at = scene.image.len() as u64 * 3 / 4;
    scene.http.commit(Rule::of(PATH, When::Always, Fault::FlipBit(at)));
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let device = device(&mut probe)?;
        let bytes = &scene.image;
        std::thread::scope(|scope| -> Result<()> {
            let reading = scope.spawn(|| identical(&mut probe, &device, bytes));
            let console = guest.console().wait_for("What is read meanwhile waits.", SOON)?;
            ensure!(console.contains(&format!("chunk {} of", at / 65_536)), "{console}");
            // So long that it was fetched again, and said nothing of that.
            std::thread::sleep(Duration::from_secs(15));
            ensure!(!reading.is_finished(), "a wrong chunk was read");
            scene.http.behave();
            reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
        })?;
        completion(&mut probe).map(drop)
    })();
    let console = end(guest, probe, checked)?;
    equal(&console.matches("What is read meanwhile waits.").count(), &1)
}

fn reads_what_is_there() -> Result<()> {
    /// The image comes from its first byte on, and nothing but this claim reads its noise.
    const THERE: u64 = 2 << 20;
    let mut scene = Scene::new()?;
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let disk = File::open(device(&mut probe)?)?;
        let deadline = Instant::now() + SOON;
        while status(&mut probe).map_or(0, |status| status.verified) < 3 * THERE {
            ensure!(Instant::now() < deadline, "the image does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
        scene.http.stop();
        let missing = NOISE * 7 / 8;
        let (said, heard) = std::sync::mpsc::channel();
        let read = |offset: u64| -> Result<Vec<u8>> {
            let mut bytes = vec![0; 8192];
            disk.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        let (waited, there) = std::thread::scope(|scope| -> Result<_> {
            let waiting = scope.spawn(|| read(missing));
            guest.console().wait_for("something waits to be read that has not come yet", SOON)?;
            scope.spawn(|| said.send(read(THERE)));
            let there = heard.recv_timeout(Duration::from_secs(10));
            ensure!(!waiting.is_finished(), "what is missing was read without a server");
            scene.http.resume(scene.network.listen(80)?)?;
            Ok((waiting.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?, there))
        })?;
        let of_the_image = |offset: u64| scene.image.get(offset as usize..offset as usize + 8192);
        equal(&Some(waited?.as_slice()), &of_the_image(missing))?;
        let there = there.context("what is there was not read while another read waited")??;
        equal(&Some(there.as_slice()), &of_the_image(THERE))?;
        completion(&mut probe).map(drop)
    })();
    end(guest, probe, checked).map(drop)
}

fn eio() -> Result<()> {
    let mut scene = Scene::with("rootbeam.stream.stall=eio:2")?;
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let device = device(&mut probe)?;
        scene.http.stop();
        let begun = Instant::now();
        match probe.ask(&Request::Digest(device.clone()), SOON)? {
            Answer::Error(error) => ensure!(error.contains("os error 5"), "{error}"),
            other => bail!("{other:?}"),
        }
        ensure!(begun.elapsed() >= Duration::from_secs(2), "it failed before its time");
        scene.http.resume(scene.network.listen(80)?)?;
        completion(&mut probe)?;
        identical(&mut probe, &device, &scene.image)
    })();
    end(guest, probe, checked).map(drop)
}

fn fetchers_killed() -> Result<()> {
    let scene = Scene::new()?;
    let size = scene.image.len() as u64;
    let (guest, mut probe, _) = scene.boot()?;
    let init = guest.pid()?;
    let checked = (|| -> Result<()> {
        let mut killed = 0;
        while killed < 5 && scene.http.sent(PATH) < size * 9 / 10 {
            std::thread::sleep(Duration::from_millis(fastrand::u64(100..400)));
            if let Some(fetcher) = fetcher(init)? {
                killed += u32::from(kill_process(fetcher, Signal::KILL).is_ok());
            }
        }
        ensure!(killed >= 2, "the image came too fast");
        let device = device(&mut probe)?;
        identical(&mut probe, &device, &scene.image)?;
        completion(&mut probe).map(drop)
    })();
    end(guest, probe, checked).map(drop)
}

fn no_fetcher() -> Result<()> {
    const TOLD: &str = "@rootbeam-fetch cannot be started";
    let scene = Scene::new()?;
    let group = Group::new()?;
    let (guest, mut probe, _) = scene.boot()?;
    let init = guest.pid()?;
    let checked = (|| -> Result<()> {
        let keeper = guest.worker(role::KEEPER)?.context("no keeper")?;
        group.write("cgroup.procs", keeper.as_raw_nonzero().to_string())?;
        group.write("pids.max", "1")?;
        let deadline = Instant::now() + SOON;
        while fetcher(init)?.is_none_or(|fetcher| kill_process(fetcher, Signal::KILL).is_err()) {
            ensure!(Instant::now() < deadline, "there is no fetch worker");
        }
        guest.console().wait_for(TOLD, SOON)?;
        std::thread::sleep(Duration::from_secs(3));
        equal(&guest.worker(role::KEEPER)?, &Some(keeper))?;
        ensure!(!status(&mut probe)?.complete, "the image came without a fetch worker");
        group.write("pids.max", "max")?;
        let device = device(&mut probe)?;
        identical(&mut probe, &device, &scene.image)?;
        completion(&mut probe).map(drop)
    })();
    let console = end(guest, probe, checked)?;
    equal(&console.matches(TOLD).count(), &1)
}

/// Where the kernel bounds the number of processes by groups, of either version.
fn pids() -> Result<&'static Path> {
    let (first, second) = (Path::new("/sys/fs/cgroup/pids"), Path::new("/sys/fs/cgroup"));
    if first.is_dir() {
        return Ok(first);
    }
    let controllers = std::fs::read_to_string(second.join("cgroup.subtree_control")).unwrap_or_default();
    ensure!(controllers.split_whitespace().any(|name| name == "pids"), "no control groups bound processes here");
    Ok(second)
}

/// A group of its own, as long as it is empty at its end.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self> {
        let folder = pids()?.join(format!("rootbeam-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }

    fn write(&self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        std::fs::write(self.0.join(name), value).with_context(|| name.to_owned())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn reads_at_the_swap() -> Result<()> {
    let scene = Scene::new()?;
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let device = device(&mut probe)?;
        // The loop devices are the host's: its own page cache, so pages are dropped before each read.
        let disk = File::open(&device)?;
        let done = std::sync::atomic::AtomicBool::new(false);
        let (disk, image, done) = (&disk, &scene.image, &done);
        std::thread::scope(|scope| -> Result<()> {
            let readers: Vec<_> =
                (0..100).map(|seed| scope.spawn(move || read_at_random(disk, image, seed, done))).collect();
            let complete = completion(&mut probe);
            std::thread::sleep(Duration::from_millis(200));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let mut reads = 0;
            for reader in readers {
                reads += reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
            }
            ensure!(reads > 1000, "only {reads} reads");
            complete.map(drop)
        })
    })();
    end(guest, probe, checked).map(drop)
}

/// The loop devices are the host's: one that is never let go would be in everybody's way.
fn killed() -> Result<()> {
    let mut scene = Scene::new()?;
    let (guest, mut probe, _) = scene.boot()?;
    let device = device(&mut probe)?;
    let block = format!("/sys/block/{}", device.trim_start_matches("/dev/"));
    // Another machine may get its number right away, but not its sequence number.
    let disk = || std::fs::read_to_string(format!("{block}/diskseq")).unwrap_or_default();
    let (begun, on) = (disk(), device.clone());
    let stands = || {
        let file = std::fs::read_to_string(format!("{block}/loop/backing_file"));
        disk() == begun && file.is_ok_and(|file| file.trim() == "/image")
    };
    scene.http.stop();
    let init = Pid::from_raw(guest.pid()?.try_into()?).context("no process id")?;
    let reading = std::thread::spawn(move || probe.ask(&Request::Digest(device), SOON).is_ok());
    guest.console().wait_for("something waits to be read that has not come yet", SOON)?;
    ensure!(stands(), "{block}: not on the served file");
    // The connection has to end before the loop device does, whose end waits for the reads under way.
    let (connection, device) = (descriptor_of(&guest, "/dev/fuse")?, descriptor_of(&guest, &on)?);
    ensure!(connection > device, "the store has {connection} for its connection and {device} for the loop device");
    kill_process(init, Signal::KILL)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while stands() {
        if Instant::now() > deadline {
            // Its end would wait for all processes of the machine.
            std::mem::forget(guest);
            bail!("the store hangs in the kernel, and {block} with it: abort its connection by fusectl");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(
        !reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?,
        "the image was read without a server"
    );
    Ok(())
}

fn lost() -> Result<()> {
    const TOLD: &str = "what was not read before cannot be read any more";
    let mut scene = Scene::new()?;
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let device = device(&mut probe)?;
        scene.http.stop();
        abort(&device)?;
        guest.console().wait_for(TOLD, SOON)?;
        let answer = probe.ask(&Request::Digest(device), SOON)?;
        ensure!(matches!(&answer, Answer::Error(text) if text.contains("os error 5")), "{answer:?}");
        let status = status(&mut probe)?;
        equal(&(status.complete, status.lost), &(false, true))
    })();
    let console = end(guest, probe, checked)?;
    equal(&(console.matches(TOLD).count(), console.contains("stands by itself")), &(1, false))
}

/// Major and minor number of the filesystem that has the file a loop device stands on.
pub fn beneath(device: &str) -> Result<(u32, u32)> {
    let number = run(Command::new("losetup").args(["--noheadings", "--list", "--output", "BACK-MAJ:MIN", device]))?;
    let (major, minor) = number.trim().split_once(':').with_context(|| number.clone())?;
    Ok((major.parse()?, minor.parse()?))
}

/// Ends the FUSE connection of the file that a loop device stands on (Documentation/filesystems/fuse/fuse.rst).
fn abort(device: &str) -> Result<()> {
    let (_, minor) = beneath(device)?;
    let folder = tempfile::tempdir()?;
    run(Command::new("mount").args(["-t", "fusectl", "none"]).arg(folder.path()))?;
    let aborted = std::fs::write(folder.path().join(minor.to_string()).join("abort"), "1");
    run(Command::new("umount").arg(folder.path()))?;
    aborted.with_context(|| format!("connection {minor}"))
}

/// Under which number the machine's store holds a file.
fn descriptor_of(guest: &Guest, file: &str) -> Result<u32> {
    let store = guest.worker(role::STORE)?.context("no store")?;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", store.as_raw_nonzero()))? {
        let entry = entry?;
        if std::fs::read_link(entry.path()).is_ok_and(|link| link.ends_with(file.trim_start_matches('/'))) {
            return entry.file_name().to_string_lossy().parse().context("not a number");
        }
    }
    bail!("the store does not hold {file}")
}

fn read_at_random(disk: &File, image: &[u8], seed: u64, done: &std::sync::atomic::AtomicBool) -> Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut reads = 0;
    while !done.load(std::sync::atomic::Ordering::Relaxed) {
        let offset = random.usize(..image.len() - 8192);
        let mut bytes = [0; 8192];
        rustix::fs::fadvise(disk, offset as u64, std::num::NonZeroU64::new(8192), rustix::fs::Advice::DontNeed)?;
        disk.read_exact_at(&mut bytes, offset as u64)?;
        ensure!(bytes == image[offset..offset + 8192], "wrong bytes at {offset}");
        reads += 1;
    }
    Ok(reads)
}

fn status_command() -> Result<()> {
    let scene = Scene::new()?;
    let (guest, mut probe, _) = scene.boot()?;
    let init = guest.pid()?.to_string();
    let rootbeam = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        let program = "/run/rootbeam/stream/rootbeam";
        command.args(["--target", &init, "--mount", "--pid", "--root", "--wdns=/", program]).args(words);
        command
    };
    let checked = (|| -> Result<()> {
        let said = rootbeam(&["status"]).output()?;
        let text = String::from_utf8(said.stdout)?;
        ensure!(text.contains("are in memory; the rest is being fetched."), "{text}");
        equal(&said.status.code(), &Some(1))?;
        let said = run(&mut rootbeam(&["status", "--wait"]))?;
        ensure!(said.contains("The image is whole in memory"), "{said}");
        equal(&status(&mut probe)?.complete, &true)?;
        let link = probe.ask(&Request::Text("/run/rootbeam/stream.json".to_owned()), SOON)?;
        ensure!(matches!(&link, Answer::Text(text) if text.contains("\"complete\":true")), "{link:?}");
        Ok(())
    })();
    end(guest, probe, checked).map(drop)
}
