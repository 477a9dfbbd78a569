//! Servers for machines under test: an HTTP server that lies on request, and dnsmasq.

pub mod dnsmasq;
pub mod fault;
pub mod http;
pub mod nginx;
pub mod site;
pub mod time;
pub mod tinyproxy;
