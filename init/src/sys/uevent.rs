//! The kernel's device messages, over netlink.

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The multicast group of the kernel itself; udev's messages go to group 2.
const KERNEL_GROUP: u32 = 1;
/// Room for a burst: a USB hub full of devices sends hundreds of messages while a module is being loaded.
const RECEIVE_BUFFER: usize = 2 << 20;

/// A socket that receives the kernel's device messages; readable means that there is one.
#[derive(Debug)]
pub struct UeventSocket(OwnedFd);

/// What a read of the socket brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// One message of the kernel.
    Packet(Vec<u8>),
    /// The kernel had to drop messages (ENOBUFS): the devices are to be looked at anew.
    Lost,
    /// None is waiting.
    Nothing,
}

impl UeventSocket {
    /// Opens the socket, non-blocking. Messages from now on are kept, so open it before devices are first looked at.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        // Needs CAP_NET_ADMIN; without it the default buffer serves, and `Lost` tells if it was too small.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// The next message. A packet of another sender than the kernel (port 0), which any privileged process could
    /// send, is dropped, and so is one that is longer than `limit`.
    pub fn receive(&self, limit: usize) -> io::Result<Received> {
        let mut buffer = vec![0; limit];
        loop {
            match recvfrom(&self.0, buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, length, Some(sender))) => {
                    let kernel = SocketAddrNetlink::try_from(sender).is_ok_and(|sender| sender.pid() == 0);
                    if kernel && length <= limit {
                        buffer.truncate(length);
                        return Ok(Received::Packet(buffer));
                    }
                }
                Ok((_, _, None)) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::NOBUFS) => return Ok(Received::Lost),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for UeventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendFlags, sendto};

    #[test]
    fn drops_what_another_process_sends() {
        let receiver = UeventSocket::open().unwrap();
        let port = SocketAddrNetlink::try_from(rustix::net::getsockname(&receiver).unwrap()).unwrap().pid();
        let sender =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::empty(), Some(KOBJECT_UEVENT)).unwrap();
        bind(&sender, &SocketAddrNetlink::new(0, 0)).unwrap();
        let forged = b"add@/devices/evil\0MODALIAS=evil\0";
        match sendto(&sender, forged, SendFlags::empty(), &SocketAddrNetlink::new(port, 0)) {
            Ok(_) => {}
            // Kernels that let only privileged processes send at all need no filter.
            Err(Errno::PERM | Errno::CONNREFUSED | Errno::ACCESS) => return,
            Err(errno) => panic!("cannot send to the receiver's own port: {errno}"),
        }
        assert_eq!(receiver.receive(8192).unwrap(), Received::Nothing);
    }
}
