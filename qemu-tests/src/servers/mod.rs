//! Servers for machines under test: an HTTP server that lies on request, a name server that fails on request, and real
//! ones: nginx, `rootbeam serve`, dnsmasq, tinyproxy, chrony; and one that is far away.

mod answer;
pub mod delay;
pub mod dns;
pub mod dnsmasq;
pub mod fault;
pub mod http;
pub mod nginx;
pub mod serve;
pub mod site;
pub mod time;
pub mod tinyproxy;
