//! The kernel's links, addresses and routes over rtnetlink. The answer to every request is waited for with a bound; but a
//! driver may keep the request that raises its link for as long as it likes, and PID 1 bounds that.

use super::link::Link;
use super::plan::{Present, Step};
use crate::messages::Route;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream::BoxStream};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How long the kernel may take for one request: setting up a link may load firmware.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The error number of a request that was not answered in time (ETIMEDOUT).
const TIMED_OUT: i32 = 110;
/// The error number of an answer that makes no sense (EPROTO).
const NONSENSE: i32 = 71;

/// An rtnetlink connection that also hears of every change to a link.
pub struct Kernel {
    handle: Handle,
    notices: BoxStream<'static, ()>,
}

impl Kernel {
    /// Connects. The connection lives in the running event loop.
    pub fn connect() -> io::Result<Self> {
        let (connection, handle, notices) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
        tokio::spawn(connection);
        Ok(Self { handle, notices: notices.map(|_| ()).boxed() })
    }

    /// Waits for a change to any link, and swallows those that came with it. May be dropped and called again.
    pub async fn changed(&mut self) {
        match self.notices.next().await {
            Some(()) => while let Some(Some(())) = self.notices.next().now_or_never() {},
            // The connection is dead; the next request says so.
            None => std::future::pending().await,
        }
    }

    /// All Ethernet links.
    pub async fn links(&self) -> Result<Vec<Link>, i32> {
        Ok(self.messages().await?.iter().filter_map(Link::from_message).collect())
    }

    /// Sets the loopback link up; with that the kernel gives it 127.0.0.1/8.
    pub async fn raise_loopback(&self) -> Result<(), i32> {
        let links = self.messages().await?;
        match links.iter().find(|link| link.header.link_layer_type == LinkLayerType::Loopback) {
            Some(loopback) => self.raise(loopback.header.index).await,
            None => Ok(()),
        }
    }

    /// Sets a link up.
    pub async fn raise(&self, index: u32) -> Result<(), i32> {
        bounded(self.handle.link().change(LinkUnspec::new_with_index(index).up().build()).execute()).await
    }

    /// Takes one step on a link.
    pub async fn take(&self, index: u32, step: &Step) -> Result<(), i32> {
        match step {
            Step::Mtu(mtu) => {
                let link = LinkUnspec::new_with_index(index).mtu((*mtu).into()).build();
                bounded(self.handle.link().change(link).execute()).await
            }
            Step::Clear { but } => self.clear(index, |there| Some(there.address) != *but).await,
            Step::Remove { address } => self.remove(index, *address).await,
            Step::Address { address, prefix } => {
                let request = self.handle.address().add(index, IpAddr::V4(*address), *prefix).replace();
                bounded(request.execute()).await
            }
            Step::Route { route, source, onlink } => self.route(index, route, *source, *onlink).await,
        }
    }

    async fn route(&self, index: u32, route: &Route, source: Ipv4Addr, onlink: bool) -> Result<(), i32> {
        let builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(index)
            .destination_prefix(route.destination, route.prefix)
            .protocol(RouteProtocol::Dhcp)
            .pref_source(source);
        let builder = match route.gateway {
            Some(gateway) => builder.gateway(gateway),
            None => builder.scope(RouteScope::Link),
        };
        let builder = if onlink { builder.onlink() } else { builder };
        bounded(self.handle.route().add(builder.build()).replace().execute()).await
    }

    /// The IPv4 addresses of a link.
    pub async fn addresses(&self, index: u32) -> Result<Vec<Present>, i32> {
        Ok(self.address_messages(index).await?.iter().filter_map(present).collect())
    }

    /// Removes `address`, as a worker has set it and nobody since.
    async fn remove(&self, index: u32, address: Ipv4Addr) -> Result<(), i32> {
        let before = self.address_messages(index).await?;
        self.clear(index, |there| there.is_own(address)).await?;
        // With the first address of a network the kernel removes the others of it, unless it is told to promote them
        // (ip-sysctl, promote_secondaries). Their messages hold what is left of their lifetimes.
        let left: Vec<Present> = self.addresses(index).await?;
        for message in before {
            let Some(there) = present(&message) else { continue };
            if there.is_own(address) || left.iter().any(|left| left.address == there.address) {
                continue;
            }
            let mut request =
                self.handle.address().add(index, there.address.into(), message.header.prefix_len).replace();
            *request.message_mut() = message;
            bounded(request.execute()).await?;
        }
        Ok(())
    }

    async fn clear(&self, index: u32, which: impl Fn(&Present) -> bool) -> Result<(), i32> {
        for message in self.address_messages(index).await? {
            if present(&message).is_some_and(|there| which(&there)) {
                bounded(self.handle.address().del(message).execute()).await?;
            }
        }
        Ok(())
    }

    async fn address_messages(&self, index: u32) -> Result<Vec<AddressMessage>, i32> {
        let mut request = self.handle.address().get().set_link_index_filter(index);
        request.message_mut().header.family = AddressFamily::Inet;
        bounded(request.execute().try_collect()).await
    }

    async fn messages(&self) -> Result<Vec<LinkMessage>, i32> {
        bounded(self.handle.link().get().execute().try_collect()).await
    }
}

/// What a message says of an IPv4 address.
fn present(message: &AddressMessage) -> Option<Present> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    let lasting = message.header.flags.contains(AddressHeaderFlags::Permanent);
    Some(Present { address, lasting, global: message.header.scope == AddressScope::Universe })
}

/// Waits for an answer, at most [`REQUEST_LIMIT`]; its error as an error number.
async fn bounded<T>(request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, i32> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(rtnetlink::Error::NetlinkError(error))) => Err(error.raw_code().saturating_abs()),
        Ok(Err(error)) => {
            log::error!("net: {error}");
            Err(NONSENSE)
        }
        Err(_) => Err(TIMED_OUT),
    }
}
