//! Beside the booted system, whose links these are now: the worker keeps the lease that an image on its way comes by, and
//! changes nothing on the link but its own address and routes.

use super::dhcp::{Client, Kept, Outcome, Race};
use super::kernel::Kernel;
use super::lease::Terms;
use super::line::{Gone, Line};
use super::link::Link;
use super::plan::{self, Step};
use super::worker::take;
use crate::messages::{NetNews, NetOrder};
use std::net::{IpAddr, Ipv4Addr};

/// The lease as it is kept beside the booted system.
struct Share {
    /// Keeps it; none where the address has no end, or is somebody else's to keep.
    client: Option<Box<Client>>,
    link: Link,
    /// The address that this worker has set; none after it was lost.
    ours: Option<Ipv4Addr>,
}

/// Keeps the lease of `link`, whose address is `ours`; ends with the next order.
pub async fn share(
    line: &Line,
    kernel: &Kernel,
    client: Option<Box<Client>>,
    link: Link,
    ours: Ipv4Addr,
    nameservers: &[IpAddr],
) -> Result<NetOrder, Gone> {
    let mut share = Share { client, link, ours: Some(ours) };
    let mut race = Race::new(nameservers);
    loop {
        let kept = async {
            match share.client.as_mut() {
                Some(client) => client.keep().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = line.order() => match order? {
                NetOrder::LinksChanged | NetOrder::Elsewhere { .. } | NetOrder::Stay | NetOrder::Share => {}
                other => return Ok(other),
            },
            kept = kept => match kept {
                Kept::Renewed(terms) => share.settle(line, kernel, terms).await?,
                Kept::Lost => if share.lose(kernel).await {
                    race.begin(share.link.clone());
                },
            },
            outcome = race.next() => if let Outcome::Won(client, terms) = outcome {
                race.leave(share.link.index);
                share.client = Some(client);
                share.settle(line, kernel, terms).await?;
            },
        }
    }
}

impl Share {
    /// Sets what was granted, unless the link is somebody else's by now: then their lease counts.
    async fn settle(&mut self, line: &Line, kernel: &Kernel, terms: Terms) -> Result<(), Gone> {
        if self.is_taken_over(kernel).await {
            log::info!("net: {}: the booted system has the link: its lease is left to it", self.link.name);
            self.client = None;
            return Ok(());
        }
        for step in plan::beside(self.ours, &terms) {
            // A route that the system has set otherwise is its own; the next renewal tries the rest again.
            if let Err(errno) = take(kernel, &self.link, &step).await {
                log::warn!("net: {}: {step}: error {errno}", self.link.name);
            }
        }
        self.ours = Some(terms.lease.address);
        line.tell(NetNews::Renewed(terms.lease)).await
    }

    /// Takes the address of a lost lease away; whether another is to be asked for.
    async fn lose(&mut self, kernel: &Kernel) -> bool {
        self.client = None;
        if self.is_taken_over(kernel).await {
            return false;
        }
        log::warn!("net: {}: the lease ran out before the image was whole: another is asked for", self.link.name);
        // RFC 2131, 4.4.5: the address may be another's from now on.
        if let Some(step) = self.ours.take().map(|address| Step::Remove { address })
            && let Err(errno) = take(kernel, &self.link, &step).await
        {
            log::warn!("net: {}: {step}: error {errno}", self.link.name);
        }
        // udev may have renamed it since, and the client asks by its name.
        if let Ok(links) = kernel.links().await
            && let Some(now) = links.into_iter().find(|now| now.index == self.link.index)
        {
            self.link = now;
        }
        true
    }

    /// Where the kernel does not say, nobody is known to have taken it.
    async fn is_taken_over(&self, kernel: &Kernel) -> bool {
        kernel.addresses(self.link.index).await.is_ok_and(|present| plan::is_taken_over(&present, self.ours))
    }
}
