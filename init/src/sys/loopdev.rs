//! Loop devices: the RAM disk of the booted system is one over the image's memfd.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const LOOP_MAJOR: u32 = 7;

mod ioctls {
    use super::LoopConfig;
    nix::ioctl_none_bad!(get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, LoopConfig);
    nix::ioctl_write_int_bad!(change_fd, 0x4C06);
}

/// How a loop device reads its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// One request after another, and before Linux 6.16 each page by a read of its own (lo_read_simple of
    /// drivers/block/loop.c): for a file in memory.
    InTurn,
    /// All at once, each as a whole, where the file knows asynchronous direct reads: for one whose reads wait.
    /// A file that does not is read as before, so that it can be followed by one in memory.
    AtOnce,
}

/// An attached loop device, open. It detaches itself when the last user is gone (autoclear).
#[derive(Debug)]
pub struct LoopDevice {
    /// `/dev/loopN`.
    pub path: String,
    /// The device itself.
    pub open: OwnedFd,
}

/// Sets a read-only loop device on another file of the same size, under whatever is mounted from it (LOOP_CHANGE_FD, which
/// asks for no privilege). Waits until every read of the old file that is under way has ended.
pub fn change_backing(device: &OwnedFd, file: impl AsFd) -> io::Result<()> {
    // SAFETY: LOOP_CHANGE_FD takes a descriptor by value.
    unsafe { ioctls::change_fd(device.as_raw_fd(), file.as_fd().as_raw_fd()) }?;
    Ok(())
}

/// Attaches `file` read-only to a free loop device in one call (LOOP_CONFIGURE, Linux 5.8). `name` is what
/// losetup(8) shows.
pub fn attach(file: impl AsFd, name: &str, reads: Reads) -> io::Result<LoopDevice> {
    let direct = if reads == Reads::AtOnce { LO_FLAGS_DIRECT_IO } else { 0 };
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut file_name = [0; 64];
    // One byte stays zero: the kernel ends the name there.
    for (slot, byte) in file_name.iter_mut().take(63).zip(name.bytes()) {
        *slot = byte;
    }
    // Between "which is free" and "take it" somebody else may take it: EBUSY, and the next free one is asked for.
    for _ in 0..64 {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument.
        let number = unsafe { ioctls::get_free(control.as_raw_fd()) }?;
        let number = u32::try_from(number).map_err(|_| io::ErrorKind::InvalidData)?;
        let path = format!("/dev/loop{number}");
        let device = open_node(&path, number)?;
        let config = LoopConfig {
            fd: u32::try_from(file.as_fd().as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
            block_size: 0,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | direct,
                file_name,
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: `config` is the structure of LOOP_CONFIGURE and lives over the call, which copies it.
        match unsafe { ioctls::configure(device.as_raw_fd(), &config) } {
            Ok(_) => return Ok(LoopDevice { path, open: device }),
            Err(nix::errno::Errno::EBUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::BUSY.into())
}

/// Opens the device; devtmpfs makes the node, a plain /dev lacks it until it is made here.
fn open_node(path: &str, number: u32) -> io::Result<OwnedFd> {
    let open = || rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    match open() {
        Err(Errno::NOENT) => {
            let device = rustix::fs::makedev(LOOP_MAJOR, number);
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, path, FileType::BlockDevice, mode, device)?;
            Ok(open()?)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_layout() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
        assert_eq!(std::mem::offset_of!(LoopConfig, info), 8);
        assert_eq!(std::mem::offset_of!(LoopInfo, flags), 52);
    }
}
