//! Packet sockets, which DHCP needs before the link has an address.

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Whether this process may open packet sockets on this kernel. The error is the kernel's: EAFNOSUPPORT where
/// af_packet is neither built in nor loaded, EPERM without CAP_NET_RAW.
pub fn probe() -> Result<(), i32> {
    // Protocol 0 receives nothing, so the probe costs no packet a copy.
    match rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_) => Ok(()),
        Err(errno) => Err(errno.raw_os_error()),
    }
}
