//! Names to addresses by the C library, with its own verdict on a failure (the standard library keeps only a text).

use rustix::io::Errno;
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a name gave no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The answer is definite: there is no such name, or it has no address.
    #[error("the name has no address")]
    Unknown,
    /// No name server answered, or one answered that it cannot say now.
    #[error("no name server answered")]
    NoServer,
}

/// Addresses of `host`, in the order of the C library. Blocks for as long as the resolver does: up to its own
/// time-outs, five seconds a try and server by default.
pub fn lookup(host: &str) -> Result<Vec<IpAddr>, NameError> {
    let host = CString::new(host).map_err(|_| NameError::Unknown)?;
    // SAFETY: an addrinfo of zeros is the documented neutral hint.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list: *mut libc::addrinfo = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call; `list` is freed below where the call succeeded.
    let code = unsafe { libc::getaddrinfo(host.as_ptr(), std::ptr::null(), &hints, &mut list) };
    match code {
        0 => {}
        libc::EAI_AGAIN | libc::EAI_MEMORY => return Err(NameError::NoServer),
        // EAI_SYSTEM comes of a socket that could not be opened or of a reset while asking.
        libc::EAI_SYSTEM if last_errno() != Errno::NOENT => return Err(NameError::NoServer),
        _ => return Err(NameError::Unknown),
    }
    let mut addresses = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: an element of the list that getaddrinfo made; it lives until freeaddrinfo.
        let entry = unsafe { &*next };
        // SAFETY: the family says which address structure `ai_addr` points to.
        addresses.extend(unsafe { address(entry) });
        next = entry.ai_next;
    }
    // SAFETY: the list came from getaddrinfo and is not used any more.
    unsafe { libc::freeaddrinfo(list) };
    if addresses.is_empty() { Err(NameError::Unknown) } else { Ok(addresses) }
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// # Safety
/// `entry.ai_addr` must point to the structure that `entry.ai_family` names.
unsafe fn address(entry: &libc::addrinfo) -> Option<IpAddr> {
    match entry.ai_family {
        libc::AF_INET => {
            // SAFETY: the caller vouches for it.
            let socket = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(socket.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the caller vouches for it.
            let socket = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::V6(Ipv6Addr::from(socket.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_digits_needs_no_server() {
        assert_eq!(lookup("127.0.0.1"), Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]));
        assert_eq!(lookup("::1"), Ok(vec![IpAddr::V6(Ipv6Addr::LOCALHOST)]));
    }

    #[test]
    fn a_name_with_a_zero_byte_is_unknown() {
        assert_eq!(lookup("a\0b"), Err(NameError::Unknown));
    }
}
