//! DHCPv4: a client on each link with carrier, the first usable lease wins, and the winner is kept alive.

use super::lease::{Terms, judge};
use super::link::Link;
use super::watch::Unusable;
use mozim::{DhcpError, DhcpV4Client, DhcpV4Config, DhcpV4Lease, DhcpV4State};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

/// How long one client may try before a new one with a new transaction starts over. mozim asks at once and again
/// after 3 to 5 s, then ever more rarely: a switch port that begins to forward after 30 s would be noticed after 60.
/// And it neither hears a NAK to its first request nor drops an offer that nobody acknowledges.
const ATTEMPT: Duration = Duration::from_secs(10);

/// mozim waits at random for less than that before its first DISCOVER, so that machines which were switched on together
/// do not ask together (RFC 2131, 4.4.1). Firmware and links have spread them by more, and a boot has nothing else to do.
const SPREAD: Duration = Duration::from_millis(200);

/// The pause after an unusable answer or an error; the same may come again at once.
const PAUSE: Duration = Duration::from_secs(2);

/// A client that has a lease.
pub struct Client {
    link: Link,
    nameservers: Arc<[IpAddr]>,
    machine: DhcpV4Client,
    /// The end of the last usable lease; none is for ever.
    ends: Option<Instant>,
}

/// What became of a lease.
pub enum Kept {
    /// It was renewed, perhaps with other terms.
    Renewed(Terms),
    /// It is over.
    Lost,
}

/// What the clients came to.
pub enum Outcome {
    /// The first usable lease.
    Won(Box<Client>, Terms),
    /// An unusable answer; its client goes on.
    Unusable(Unusable),
}

/// The clients of all links. Dropping it stops them.
pub struct Race {
    nameservers: Arc<[IpAddr]>,
    clients: JoinSet<(Client, Terms)>,
    by_link: BTreeMap<u32, AbortHandle>,
    complaint: UnboundedSender<Unusable>,
    complaints: UnboundedReceiver<Unusable>,
}

impl Race {
    /// A race without runners.
    pub fn new(nameservers: &[IpAddr]) -> Self {
        let (complaint, complaints) = unbounded_channel();
        Self {
            nameservers: nameservers.into(),
            clients: JoinSet::new(),
            by_link: BTreeMap::new(),
            complaint,
            complaints,
        }
    }

    /// Begins to ask on `link`, anew where that was going on.
    pub fn begin(&mut self, link: Link) {
        self.leave(link.index);
        let index = link.index;
        let client = Client::acquire(link, self.nameservers.clone(), self.complaint.clone());
        self.by_link.insert(index, self.clients.spawn(client));
    }

    /// Lets those that just began ask at once: the event loop's clock is set past their [`SPREAD`]. By so much, which is
    /// returned, it is ahead of the time that has passed.
    pub async fn hurry(&self) -> Duration {
        // What was spawned begins to wait when it is first polled.
        tokio::task::yield_now().await;
        tokio::time::pause();
        tokio::time::advance(SPREAD).await;
        tokio::time::resume();
        SPREAD
    }

    /// Stops asking on the link of that index.
    pub fn leave(&mut self, index: u32) {
        if let Some(client) = self.by_link.remove(&index) {
            client.abort();
        }
    }

    /// Waits for the next outcome. May be dropped and called again.
    pub async fn next(&mut self) -> Outcome {
        loop {
            tokio::select! {
                biased;
                Some(finished) = self.clients.join_next() => match finished {
                    Ok((client, terms)) => return Outcome::Won(Box::new(client), terms),
                    // Aborted by `leave`.
                    Err(error) => log::debug!("net: a client ended: {error}"),
                },
                Some(answer) = self.complaints.recv() => return Outcome::Unusable(answer),
            }
        }
    }
}

impl Client {
    /// Asks on `link` until a server gives a usable lease.
    async fn acquire(link: Link, nameservers: Arc<[IpAddr]>, complaint: UnboundedSender<Unusable>) -> (Self, Terms) {
        loop {
            let (machine, answer) = match timeout(ATTEMPT, bound(&link)).await {
                Ok(Ok(bound)) => bound,
                Ok(Err(error)) => {
                    log::warn!("net: {}: {error}", link.name);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(_) => continue,
            };
            match judge(&answer, &link, &nameservers) {
                Ok(terms) => {
                    let ends = end_of(&terms);
                    return (Self { link, nameservers, machine, ends }, terms);
                }
                Err(fault) => {
                    let server = Some(answer.srv_id).filter(|server| !server.is_unspecified());
                    log::warn!("net: {}: the lease of {} {fault}", link.name, answer.srv_id);
                    // Nobody listens where the race is over.
                    let _ = complaint.send(Unusable { link: link.name.clone(), server, fault });
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The link of the lease.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Waits until the lease is renewed or over. May be dropped and called again.
    pub async fn keep(&mut self) -> Kept {
        loop {
            let step = match self.ends {
                Some(end) => timeout_at(end, self.machine.run()).await,
                None => Ok(self.machine.run().await),
            };
            match step {
                Ok(Ok(DhcpV4State::Done(answer))) => match judge(&answer, &self.link, &self.nameservers) {
                    Ok(terms) => {
                        self.ends = end_of(&terms);
                        return Kept::Renewed(terms);
                    }
                    // What was granted before stays ours until its end.
                    Err(fault) => log::warn!("net: {}: the renewed lease {fault}", self.link.name),
                },
                Ok(Ok(DhcpV4State::Renewing | DhcpV4State::Rebinding)) => {}
                Ok(Ok(DhcpV4State::InitReboot | DhcpV4State::Selecting)) | Err(_) => return Kept::Lost,
                Ok(Err(error)) => {
                    log::error!("net: {}: {error}", self.link.name);
                    return Kept::Lost;
                }
            }
        }
    }
}

/// Runs a fresh client until a server has acknowledged a lease.
async fn bound(link: &Link) -> Result<(DhcpV4Client, Box<DhcpV4Lease>), DhcpError> {
    let mut config = DhcpV4Config::new(link.name.as_str());
    config.set_iface_index(link.index).set_iface_mac_raw(&link.mac)?;
    // The identifier that most clients send, so that the booted system's gets the same address.
    config.use_mac_as_client_id();
    let mut machine = DhcpV4Client::init(config, None).await?;
    loop {
        if let DhcpV4State::Done(answer) = machine.run().await? {
            return Ok((machine, answer));
        }
    }
}

fn end_of(terms: &Terms) -> Option<Instant> {
    let seconds = terms.lease.seconds?;
    Instant::now().checked_add(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_to_spread_machines_goes_on_at_once() {
        let race = Race::new(&[]);
        let waits = tokio::spawn(tokio::time::sleep(SPREAD - Duration::from_millis(1)));
        race.hurry().await;
        tokio::task::yield_now().await;
        assert!(waits.is_finished());
    }
}
