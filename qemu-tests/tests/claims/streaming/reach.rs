//! What an image is served by while it is on its way: the RAM disk alone stands on the served file, and no road leads
//! there from the booted system.

use super::trouble::{beneath, device};
use super::{PATH, SOON, Scene, completion, identical};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rootbeam_init::contract::{STREAM_FILE, role};
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::netns;
use rootbeam_qemu_tests::outcome::Outcome;
use rootbeam_qemu_tests::probe::{Answer, Probe, Request};
use rootbeam_qemu_tests::reach::{CONNECTIONS, Road};
use rootbeam_qemu_tests::servers::fault::{Fault, Rule, When};
use rustix::io::Errno;

pub fn claims() -> Vec<Trial> {
    vec![claim("streaming: no road leads anybody, root included, to the served file", &[netns::available], no_road)]
}

/// Users without privilege: the one that the workers are in effect, and a person.
const USERS: [u32; 2] = [65534, 1000];
/// Where the served file is mounted for a moment before the hand-over.
const SERVED: &str = "run/rootbeam/served";

fn no_road() -> Result<()> {
    let scene = Scene::new()?;
    // In the noise, which nobody reads: the image is served until the end of this.
    scene.http.commit(Rule::of(PATH, When::Always, Fault::StallAt(scene.image.len() as u64 / 2)));
    let (guest, mut probe, _) = scene.boot()?;
    let checked = (|| -> Result<()> {
        let device = device(&mut probe)?;
        let served = beneath(&device)?;
        equal(&probe.ask(&Request::ShowConnections, SOON)?, &Answer::Shown)?;
        let processes = processes(&mut probe)?;
        for (_, pid) in &processes {
            nothing_mounted(&mut probe, *pid, served)?;
        }
        let roads = as_root(&mut probe, &processes, served)?;
        for user in USERS {
            as_user(&mut probe, user, &roads)?;
        }
        // Nor was anything disturbed by so much as opening it.
        scene.http.behave();
        scene.http.cut();
        completion(&mut probe)?;
        identical(&mut probe, &device, &scene.image)
    })();
    checked.with_context(|| guest.console().last_lines())?;
    probe.power_off()?;
    equal(&guest.finish(None)?.outcome, &Outcome::PoweredOff)
}

/// The real init, and the workers that stay the same.
fn processes(probe: &mut Probe) -> Result<Vec<(String, u32)>> {
    let world = probe.world(SOON)?;
    let named = |name: &str| {
        let mut all = world.processes.iter();
        let found = all.find(|process| process.args.first().is_some_and(|first| first == name));
        found.map(|process| (name.to_owned(), process.pid)).with_context(|| format!("no {name}"))
    };
    let init = [Ok(("the real init".to_owned(), world.pid))];
    init.into_iter().chain([role::NET, role::STORE, role::KEEPER].map(named)).collect()
}

/// No mount that the process sees is of FUSE, or of the served file's filesystem by whatever name.
fn nothing_mounted(probe: &mut Probe, pid: u32, (major, minor): (u32, u32)) -> Result<()> {
    let answer = probe.ask(&Request::Text(format!("/proc/{pid}/mountinfo")), SOON)?;
    let Answer::Text(table) = answer else { bail!("{answer:?}") };
    ensure!(!table.is_empty(), "process {pid} sees no mounts");
    ensure!(!table.contains(&format!(" {major}:{minor} ")) && !table.contains(" - fuse "), "{pid}: {table}");
    Ok(())
}

/// Nothing that root finds open, mapped, worked in or rooted at is on the served file's filesystem, and the file's names are
/// names of nothing. Root may end the connection, as it may kill the store. All roads taken.
fn as_root(probe: &mut Probe, processes: &[(String, u32)], served: (u32, u32)) -> Result<Vec<Road>> {
    let names = processes.iter().flat_map(|(_, pid)| {
        [format!("/proc/{pid}/root/"), format!("/proc/{pid}/cwd/")]
            .into_iter()
            .flat_map(|folder| [STREAM_FILE, SERVED].map(|name| folder.clone() + name))
    });
    let mut names: Vec<String> = names.collect();
    names.extend([STREAM_FILE, SERVED].map(|name| format!("/{name}")));
    let connection = ["abort", "waiting"].map(|name| format!("{CONNECTIONS}/{}/{name}", served.1));
    let mut roads = reach(probe, 0, names.iter().chain(&connection).cloned().collect())?;
    // A fetch worker may be another one at any time, and has nothing but sockets and the ring.
    roads.retain(|road| road.process().is_none_or(|pid| processes.iter().any(|(_, known)| *known == pid)));
    for road in &roads {
        ensure!(road.filesystem != Ok(served), "it leads to the served file: {road:?}");
        if names.contains(&road.path) {
            let none = Errno::NOENT.raw_os_error();
            equal(&(&road.path, road.filesystem, road.read), &(&road.path, Err(none), Some(none)))?;
        }
    }
    // So much is found where something is.
    let store = processes.iter().find(|(name, _)| name == role::STORE).map(|(_, pid)| *pid);
    let holds = |road: &Road| road.process() == store && road.link.as_deref() == Some("/dev/fuse");
    ensure!(roads.iter().any(holds), "the store's connection is not among {roads:#?}");
    ensure!(roads.iter().any(|road| road.path == connection[0] && road.write.is_none()), "{roads:#?}");
    Ok(roads)
}

/// Others are refused at each process, whatever is behind it, and at the connection.
fn as_user(probe: &mut Probe, user: u32, known: &[Road]) -> Result<()> {
    let paths: Vec<String> = known.iter().map(|road| road.path.clone()).collect();
    let roads = reach(probe, user, paths.clone())?;
    for path in &paths {
        let road = roads.iter().find(|road| road.path == *path).with_context(|| format!("{path} was not tried"))?;
        let there = road.process().is_some() || path.starts_with(CONNECTIONS);
        let read = if there { Errno::ACCESS } else { Errno::NOENT };
        // Of a folder the kernel says so first.
        let folder = ["/fd", "/map_files"].iter().any(|name| path.ends_with(name));
        let write = if folder { Errno::ISDIR } else { read };
        let expected = (path, Some(read.raw_os_error()), Some(write.raw_os_error()));
        equal(&(path, road.read, road.write), &expected).with_context(|| format!("as user {user}"))?;
    }
    Ok(())
}

fn reach(probe: &mut Probe, user: u32, paths: Vec<String>) -> Result<Vec<Road>> {
    match probe.ask(&Request::Reach(user, paths), SOON)? {
        Answer::Reached(roads) => Ok(roads),
        other => bail!("{other:?}"),
    }
}
