//! The net worker: links and addresses.
//!
//! `worker` is the story. Decisions are values: `link` says which links there are, `watch` what to do with them and
//! when to give up, `lease` what of a server's answer is believed, `plan` how a link is configured. Only `kernel`
//! speaks rtnetlink, only `dhcp` speaks to servers. `search` asks elsewhere where a lease leads nowhere, `beside` is what
//! is left of it all once the booted system runs.

mod beside;
mod dhcp;
mod kernel;
mod lease;
mod line;
mod link;
mod plan;
mod search;
mod watch;
mod worker;

use crate::messages::{NetNews, NetOrder};
use crate::sys::channel::Channel;

/// Runs the worker until `NetOrder::Finish` (exit status 0) or until PID 1 is gone (exit status 1).
///
/// Needs CAP_NET_ADMIN, CAP_NET_RAW and, to renew a lease from port 68, CAP_NET_BIND_SERVICE; the module af_packet
/// must be there.
pub fn main(channel: Channel<NetNews, NetOrder>) -> i32 {
    // One thread: the worker waits far more than it works, and its peak memory counts.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error!("net: no event loop: {error}");
            return 1;
        }
    };
    match runtime.block_on(worker::run(channel)) {
        Ok(()) => 0,
        Err(stopped) => {
            log::error!("net: {stopped}");
            1
        }
    }
}
