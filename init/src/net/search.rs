//! Asking elsewhere while a lease is kept that leads nowhere: the links are watched as at first, but for those that had
//! their turn.

use super::dhcp::{Client, Outcome, Race};
use super::kernel::Kernel;
use super::lease::Terms;
use super::line::{Gone, Line};
use super::link::Link;
use super::watch::{Action, Watch};
use super::worker::{BETTER, LOOK};
use crate::label::Label;
use crate::messages::{NetNews, Selection};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// The search for another link's lease.
pub struct Search {
    watch: Watch,
    race: Race,
    /// The links that are not asked.
    but: Vec<Label>,
    /// A lease without a route, and until when a better one is waited for.
    held: Option<(Box<Client>, Terms, Instant)>,
    begun: Instant,
    look: Instant,
}

impl Search {
    /// A search that has not looked yet, on what is selected but for `but`.
    pub fn new(links: Selection, but: Vec<Label>, nameservers: &[IpAddr]) -> Self {
        let now = Instant::now();
        // It has no end of its own: the lease is as good without it.
        let watch = Watch::new(links, Duration::MAX, Duration::MAX);
        Self { watch, race: Race::new(nameservers), but, held: None, begun: now, look: now }
    }

    /// Whether it has a link to ask on, or to wait for its carrier.
    pub fn is_alone(&self) -> bool {
        self.watch.links().next().is_none()
    }

    /// Looks at the links, and begins to ask where there is carrier.
    pub async fn look(&mut self, line: &Line, kernel: &Kernel) -> Result<(), Gone> {
        self.look = Instant::now() + LOOK;
        // A failed look is harmless: the next one is soon.
        let Ok(links) = kernel.links().await else { return Ok(()) };
        let links: Vec<Link> = links.into_iter().filter(|link| !self.but.contains(&link.name)).collect();
        for action in self.watch.observe(&links, self.begun.elapsed()) {
            match action {
                Action::Raise(link) => {
                    if let Err(errno) = kernel.raise(link.index).await {
                        self.watch.refused(link.index, errno);
                    }
                }
                Action::Tell(news) => line.tell(news).await?,
                Action::Begin(link) => {
                    line.tell(NetNews::Asking { link: link.name.clone() }).await?;
                    self.race.begin(link);
                }
                Action::Leave(index) => {
                    self.race.leave(index);
                    self.held.take_if(|(client, ..)| client.link().index == index);
                }
                Action::GiveUp(_) => {}
            }
        }
        Ok(())
    }

    /// Waits for a lease; none where it is time to look again. May be dropped and called again.
    pub async fn found(&mut self) -> Option<(Box<Client>, Terms)> {
        loop {
            let until = self.held.as_ref().map_or(self.look, |(.., until)| self.look.min(*until));
            tokio::select! {
                biased;
                outcome = self.race.next() => {
                    // What is unusable was logged.
                    let Outcome::Won(client, terms) = outcome else { continue };
                    let index = client.link().index;
                    self.race.leave(index);
                    let others = self.watch.others(index).next().is_some();
                    if !others || terms.leads_on() {
                        return Some((client, terms));
                    }
                    self.held.get_or_insert((client, terms, Instant::now() + BETTER));
                }
                () = tokio::time::sleep_until(until) => {
                    let held = self.held.take_if(|(.., until)| *until <= Instant::now());
                    return held.map(|(client, terms, _)| (client, terms));
                }
            }
        }
    }
}
