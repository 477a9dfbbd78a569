//! The story of a boot: settings → modules → network → image → root → hand-over.

use crate::crew::Crew;
use crate::failure::{Failure, Retry, Step};
use crate::image::Mounted;
use crate::machine::Machine;
use crate::receive::Arrival;
use crate::sys::worker;
use crate::turns::Turns;
use crate::{causes, image, network, root, streaming};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Boots the machine: returns only where that failed. Called again, it goes on with what is there already.
pub fn boot(machine: &mut Machine) -> Result<Infallible, Failure> {
    machine.settings.proofs()?;
    machine.settings.sources()?;
    let mut crew = match machine.crew.take() {
        Some(crew) => crew,
        None => start(machine)?,
    };
    match prepare(machine, &mut crew) {
        Ok((mounted, init)) => {
            hand_over(machine, crew, &mounted, &init).map_err(|failure| Failure { retry: Retry::Never, ..failure })
        }
        Err(failure) => {
            machine.note_network(&mut crew);
            // What was verified stays with the crew for the next attempt.
            machine.crew = Some(crew);
            Err(failure)
        }
    }
}

/// Everything up to the root switch: what is there from an attempt before is not made again.
fn prepare(machine: &mut Machine, crew: &mut Crew) -> Result<(Mounted, PathBuf), Failure> {
    connect(machine, crew)?;
    // Each attempt has its own time: a person may have spent an hour in the shell between two.
    let deadline = machine.settings.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    fetch(machine, crew, deadline)?;
    assemble(machine, crew, deadline).map_err(|failure| Failure { retry: Retry::Never, ..failure })
}

/// Drivers and workers.
fn start(machine: &mut Machine) -> Result<Crew, Failure> {
    let step = machine.begin(Step::Modules);
    // The crew listens for devices before they are looked at, so that none is missed between.
    let crew = Crew::start(streaming::program(&machine.settings)?)?;
    let found = machine.load_drivers();
    machine.end(step, found, 0);
    Ok(crew)
}

/// An address.
fn connect(machine: &mut Machine, crew: &mut Crew) -> Result<(), Failure> {
    if machine.lease.is_none() {
        let step = machine.begin(Step::Network);
        let order = network::order(&machine.settings);
        let stall = Duration::from_secs(machine.settings.stall.into());
        let limit = machine.settings.timeout.map(|seconds| Duration::from_secs(seconds.into()));
        crew.turns = Turns::new(network::is_open(&order), machine.settings.image.len(), stall, limit);
        crew.order_network(order)?;
        // The wait for an address hides these.
        crew.begin()?;
        image::prepare_kernel(&mut machine.modules);
        let lease = network::await_lease(crew, &mut machine.modules, &machine.settings)
            .map_err(|failure| causes::without_drivers(failure, machine.modules.mismatch()))?;
        network::write_resolver(&lease);
        crew.lease_came(&lease.link, Instant::now())?;
        machine.end(step, network::describe(&lease), 0);
        machine.take_lease(lease);
    }
    crew.turn_links_anew(Instant::now())
}

/// The sources in the words of this machine and its lease: a link whose lease lacks one gives way to another.
fn name_sources(machine: &mut Machine, crew: &mut Crew, deadline: Option<Instant>) -> Result<(), Failure> {
    machine.note_network(crew);
    while let Err(failure) = machine.fill_sources() {
        let Machine { modules, settings, stack, .. } = machine;
        match network::turn_away(crew, modules, settings, &mut stack.streams, failure, deadline) {
            Ok(()) => machine.turn(crew),
            // The same link's may say more by now.
            Err(_) if machine.note_network(crew) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// Every byte of the image and of its layers, verified.
fn fetch(machine: &mut Machine, crew: &mut Crew, deadline: Option<Instant>) -> Result<(), Failure> {
    name_sources(machine, crew, deadline)?;
    while let Some(order) = machine.stack.next(&machine.settings)? {
        let step = machine.begin(Step::Image);
        let asked = (&order, &machine.wanted(&order)?);
        let received = match machine.stack.run(crew, &mut machine.modules, &machine.settings, asked, deadline)? {
            Arrival::Image(received) => received,
            Arrival::Turned => {
                machine.turn(crew);
                name_sources(machine, crew, deadline)?;
                continue;
            }
        };
        let fetched = received.as_ref().map_or(0, |received| received.tally.fetched);
        machine.end(step, order.outcome(received.as_deref()), fetched);
        machine.take_image(&order, received.as_deref());
    }
    machine.note_network(crew);
    Ok(())
}

/// From the verified images to a root that is fit to be entered.
fn assemble(machine: &mut Machine, crew: &mut Crew, deadline: Option<Instant>) -> Result<(Mounted, PathBuf), Failure> {
    let step = machine.begin(Step::Mount);
    let size = machine.stack.images(crew).iter().map(|(.., received)| received.facts.size).sum();
    let assembled = match machine.stack.streams.are_there() {
        true => streaming::assembly::assemble(machine, crew, deadline)?,
        false => machine.assemble(crew)?,
    };
    machine.note_network(crew);
    machine.end(step, format!("root on {}", assembled.0.devices.join(", ")), size);
    Ok(assembled)
}

/// Into the new root and its init; there is no way back from the root switch.
fn hand_over(machine: &mut Machine, crew: Crew, mounted: &Mounted, init: &Path) -> Result<Infallible, Failure> {
    let step = machine.begin(Step::Switch);
    machine.worker_restarts(crew.restarts());
    machine.part(crew)?;
    let deleted = root::enter()?;
    machine.end(step, format!("{deleted} files of the initramfs deleted"), 0);

    log::info!("handing over to {}", init.display());
    machine.write_report(mounted, init);
    machine.journal.close();
    let error = worker::exec(init, machine.arguments.iter().cloned());
    let remedy = "look at the image: the program was found executable before the root was switched";
    Err(Failure::new(Step::Init, init.display().to_string(), format!("exec: {error}"), remedy))
}
