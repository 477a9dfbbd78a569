//! The story: an order comes, links are watched, the first lease is set, reported and kept until the next order, which
//! may be to keep it beside the booted system.

use super::beside;
use super::dhcp::{Client, Kept, Outcome, Race};
use super::kernel::Kernel;
use super::lease::{Terms, fixed};
use super::line::{Gone, Line};
use super::link::Link;
use super::plan::{self, Step};
use super::search::Search;
use super::watch::{Action, Watch};
use crate::label::Label;
use crate::messages::{Addressing, NetCause, NetNews, NetOrder, Selection};
use crate::sys::channel::Channel;
use crate::sys::packet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::time::Instant;

/// How often the links are looked at without being told of a change: a notice may have been lost in a full buffer.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// After how long an address is asked for again that was not to be had beside the booted system.
const PAUSE: Duration = Duration::from_secs(5);

/// For how long other links may bring a better lease than one without a route, which leads nowhere but to its own network:
/// a server's USB link to its BMC gives such a one before any cable has carrier.
pub(super) const BETTER: Duration = Duration::from_secs(5);

/// An `Up` order.
struct Task {
    links: Selection,
    addressing: Addressing,
    nameservers: Vec<IpAddr>,
    carrier_limit: Duration,
    lease_limit: Duration,
    /// Whether the links are the booted system's by now.
    shared: bool,
}

/// How an `Up` order went.
enum Outset {
    /// Configured; the client keeps the lease, none for a static address.
    Up(Option<Box<Client>>, Link, Terms),
    /// Not in time, or not at all.
    Failed(NetCause),
    /// Another order came.
    Ordered(NetOrder),
}

/// Serves PID 1 until it says `Finish`.
pub async fn run(channel: Channel<NetNews, NetOrder>) -> Result<(), Gone> {
    let line = Line::new(channel)?;
    let mut kernel = Kernel::connect()?;
    if let Err(errno) = kernel.raise_loopback().await {
        log::warn!("net: the loopback link was not set up: error {errno}");
    }
    let mut order = line.order().await?;
    let mut last: Option<Task> = None;
    loop {
        order = match order {
            NetOrder::Finish => return Ok(()),
            // Nothing is kept that would be to leave or to stay on.
            NetOrder::LinksChanged | NetOrder::Elsewhere { .. } | NetOrder::Stay => line.order().await?,
            // It found no lease to keep: the last one was lost at that moment, or is being asked for.
            NetOrder::Share => match last.as_mut() {
                Some(task) => {
                    task.shared = true;
                    serve(&line, &mut kernel, task).await?
                }
                None => line.order().await?,
            },
            NetOrder::Up { links, addressing, nameservers, carrier_seconds, lease_seconds } => {
                let carrier_limit = Duration::from_secs(carrier_seconds.into());
                let lease_limit = Duration::from_secs(lease_seconds.into());
                let task = Task { links, addressing, nameservers, carrier_limit, lease_limit, shared: false };
                serve(&line, &mut kernel, last.insert(task)).await?
            }
        };
    }
}

/// Brings the network up and keeps it; ends with the next order.
async fn serve(line: &Line, kernel: &mut Kernel, task: &Task) -> Result<NetOrder, Gone> {
    loop {
        match set_out(line, kernel, task).await? {
            Outset::Ordered(order) => return Ok(order),
            Outset::Failed(cause) => {
                line.tell(NetNews::Failed(cause)).await?;
                if !task.shared {
                    return line.order().await;
                }
                // Nobody orders it again beside the booted system.
                tokio::select! {
                    order = line.order() => return order,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            Outset::Up(client, link, terms) => {
                let ours = terms.lease.address;
                line.tell(NetNews::Up(terms.lease)).await?;
                if task.shared {
                    return beside::share(line, kernel, client, link, ours, &task.nameservers).await;
                }
                return hold(line, kernel, client, link, ours, task).await;
            }
        }
    }
}

/// Watches links, asks on those with carrier, and configures the first that gets an address.
async fn set_out(line: &Line, kernel: &mut Kernel, task: &Task) -> Result<Outset, Gone> {
    let mut start = Instant::now();
    let mut watch = Watch::new(task.links.clone(), task.carrier_limit, task.lease_limit);
    let mut race = Race::new(&task.nameservers);
    let mut held: Option<(Box<Client>, Terms, Instant)> = None;
    loop {
        let links = match kernel.links().await {
            Ok(links) => links,
            Err(errno) => return Ok(Outset::Failed(not_listed(errno))),
        };
        let mut began = false;
        for action in watch.observe(&links, start.elapsed()) {
            match action {
                Action::Raise(link) => {
                    if let Err(errno) = kernel.raise(link.index).await {
                        log::warn!("net: {} was not set up: error {errno}", link.name);
                        watch.refused(link.index, errno);
                    }
                }
                Action::Tell(news) => line.tell(news).await?,
                Action::Begin(link) => match &task.addressing {
                    Addressing::Static(words) => {
                        let terms = fixed(words, &link, &task.nameservers);
                        return Ok(chosen(kernel, &watch, task, None, link, terms).await);
                    }
                    Addressing::Dhcp => {
                        if let Err(errno) = packet::probe() {
                            return Ok(Outset::Failed(NetCause::Kernel { link: link.name, errno }));
                        }
                        line.tell(NetNews::Asking { link: link.name.clone() }).await?;
                        race.begin(link);
                        began = true;
                    }
                },
                Action::Leave(index) => {
                    race.leave(index);
                    held.take_if(|(client, ..)| client.link().index == index);
                }
                Action::GiveUp(cause) => {
                    return Ok(match held {
                        Some((client, terms, _)) => won(kernel, &watch, task, client, terms).await,
                        None => Outset::Failed(cause),
                    });
                }
            }
        }
        if began {
            // The limits count time that has passed.
            start += race.hurry().await;
        }
        let look = Instant::now() + LOOK;
        let next = start.checked_add(watch.deadline()).map_or(look, |deadline| look.min(deadline));
        tokio::select! {
            biased;
            order = line.order() => match order? {
                NetOrder::LinksChanged | NetOrder::Elsewhere { .. } | NetOrder::Stay => {}
                other => return Ok(Outset::Ordered(other)),
            },
            outcome = race.next() => match outcome {
                Outcome::Won(client, terms) => {
                    let others = watch.others(client.link().index).next().is_some();
                    if !others || terms.leads_on() {
                        return Ok(won(kernel, &watch, task, client, terms).await);
                    }
                    log::info!("net: {}: its lease has no route; another link may bring one", client.link().name);
                    race.leave(client.link().index);
                    held.get_or_insert((client, terms, Instant::now() + BETTER));
                }
                Outcome::Unusable(answer) => watch.unusable(answer),
            },
            () = tokio::time::sleep_until(held.as_ref().map_or(look, |(.., until)| *until)) => {
                if let Some((client, terms, _)) = held {
                    return Ok(won(kernel, &watch, task, client, terms).await);
                }
            }
            () = kernel.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Keeps the lease and reports the link's carrier, and asks elsewhere where that is ordered; ends with the next order.
async fn hold(
    line: &Line,
    kernel: &mut Kernel,
    mut client: Option<Box<Client>>,
    mut link: Link,
    mut ours: Ipv4Addr,
    task: &Task,
) -> Result<NetOrder, Gone> {
    let mut search: Option<Search> = None;
    loop {
        let kept = async {
            match client.as_mut() {
                Some(client) => client.keep().await,
                None => std::future::pending().await,
            }
        };
        let found = async {
            match search.as_mut() {
                Some(search) => search.found().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = line.order() => match order? {
                NetOrder::LinksChanged => if let Some(search) = search.as_mut() {
                    search.look(line, kernel).await?;
                },
                NetOrder::Elsewhere { number, held, mut but } => if held == link.name {
                    but.push(held);
                    let search = search.insert(Search::new(task.links.clone(), but, &task.nameservers));
                    search.look(line, kernel).await?;
                    if search.is_alone() {
                        line.tell(NetNews::Alone { number }).await?;
                    }
                }
                NetOrder::Stay => search = None,
                NetOrder::Share => return beside::share(line, kernel, client, link, ours, &task.nameservers).await,
                other => return Ok(other),
            },
            kept = kept => match kept {
                Kept::Renewed(terms) => {
                    let steps = plan::configure(&link, &terms);
                    match configured(kernel, client.take(), link.clone(), terms, &steps).await {
                        Outset::Up(same, _, terms) => {
                            client = same;
                            ours = terms.lease.address;
                            line.tell(NetNews::Renewed(terms.lease)).await?;
                        }
                        Outset::Failed(cause) => {
                            line.tell(NetNews::Failed(cause)).await?;
                            return line.order().await;
                        }
                        Outset::Ordered(order) => return Ok(order),
                    }
                }
                Kept::Lost => {
                    // RFC 2131, 4.4.5: the address may be another's from now on.
                    forget(kernel, &link).await;
                    line.tell(NetNews::Failed(NetCause::LeaseLost { link: link.name })).await?;
                    return line.order().await;
                }
            },
            found = found => match found {
                Some((winner, terms)) => {
                    // Replies would leave by the wrong link.
                    forget(kernel, &link).await;
                    search = None;
                    link = winner.link().clone();
                    let steps = plan::configure(&link, &terms);
                    match configured(kernel, Some(winner), link.clone(), terms, &steps).await {
                        Outset::Up(kept, _, terms) => {
                            client = kept;
                            ours = terms.lease.address;
                            line.tell(NetNews::Up(terms.lease)).await?;
                        }
                        Outset::Failed(cause) => {
                            line.tell(NetNews::Failed(cause)).await?;
                            return line.order().await;
                        }
                        Outset::Ordered(order) => return Ok(order),
                    }
                }
                None => if let Some(search) = search.as_mut() {
                    search.look(line, kernel).await?;
                },
            },
            () = kernel.changed() => {
                if let Some(search) = search.as_mut() {
                    search.look(line, kernel).await?;
                }
                // A failed look is harmless here: the lease stands, and the next change is looked at again.
                let Ok(links) = kernel.links().await else { continue };
                let Some(now) = links.into_iter().find(|now| now.index == link.index) else {
                    // One that comes back is another one to the kernel, without address.
                    line.tell(NetNews::Failed(NetCause::LinkGone { link: link.name })).await?;
                    return line.order().await;
                };
                if now.carrier != link.carrier {
                    let Link { name, mac, carrier, .. } = now.clone();
                    line.tell(NetNews::Link { name, mac, carrier }).await?;
                }
                link = now;
            }
        }
    }
}

/// Configures the link of the client that has the lease.
async fn won(kernel: &Kernel, watch: &Watch, task: &Task, client: Box<Client>, terms: Terms) -> Outset {
    let link = client.link().clone();
    chosen(kernel, watch, task, Some(client), link, terms).await
}

/// Configures the link that was chosen. What is on links that are shared may be the booted system's, and stays.
async fn chosen(
    kernel: &Kernel,
    watch: &Watch,
    task: &Task,
    client: Option<Box<Client>>,
    link: Link,
    terms: Terms,
) -> Outset {
    let steps = if task.shared {
        plan::beside(None, &terms)
    } else {
        clear_others(kernel, watch, &link).await;
        plan::configure(&link, &terms)
    };
    configured(kernel, client, link, terms, &steps).await
}

/// Takes the steps that configure `link` by `terms`. A route that the kernel refuses is left out, unless it is the default
/// route.
async fn configured(
    kernel: &Kernel,
    client: Option<Box<Client>>,
    link: Link,
    mut terms: Terms,
    steps: &[Step],
) -> Outset {
    for step in steps {
        let Err(errno) = take(kernel, &link, step).await else { continue };
        match step {
            Step::Mtu(_) => log::warn!("net: {}: {step}: error {errno}", link.name),
            Step::Route { route, .. } if route.prefix != 0 => {
                log::warn!("net: {}: {step}: error {errno}", link.name);
                terms.lease.routes.retain(|kept| kept != route);
            }
            _ => return Outset::Failed(NetCause::Kernel { link: link.name, errno }),
        }
    }
    Outset::Up(client, link, terms)
}

/// Takes the addresses off the selected links that were not chosen: an earlier worker, or the kernel's own `ip=`, may
/// have left some, and replies would leave by the wrong link.
async fn clear_others(kernel: &Kernel, watch: &Watch, chosen: &Link) {
    for link in watch.others(chosen.index) {
        forget(kernel, link).await;
    }
}

/// Takes every address off a link. Where that fails, the network is not the worse for it.
async fn forget(kernel: &Kernel, link: &Link) {
    for step in plan::forget() {
        if let Err(errno) = take(kernel, link, &step).await {
            log::warn!("net: {}: {step}: error {errno}", link.name);
        }
    }
}

pub(super) async fn take(kernel: &Kernel, link: &Link, step: &Step) -> Result<(), i32> {
    log::info!("net: {}: {step}", link.name);
    kernel.take(link.index, step).await
}

/// The kernel would not list its links: that is about none in particular.
fn not_listed(errno: i32) -> NetCause {
    Label::new("all").map_or(NetCause::NoLink, |link| NetCause::Kernel { link, errno })
}
