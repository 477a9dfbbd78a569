//! Anonymous memory files: the image, and the staging ring between fetch and store.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Creates an empty memfd that may be sealed. It is closed on exec.
pub fn create(name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

/// Creates a memfd of `length` zero bytes whose size is sealed, so that a mapping of it never faults.
pub fn create_sized(name: &str, length: usize) -> io::Result<OwnedFd> {
    let memfd = create(name)?;
    rustix::fs::ftruncate(&memfd, length as u64)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memfd)
}

/// How often sealing is tried.
const TRIES: usize = 20;

/// Seals `memfd` for good: no write, no change of size, no further seal. The kernel refuses (EBUSY) while a shared
/// writable mapping of it exists anywhere, which is why the image is written by pwrite. It refuses as well where it finds a
/// page in use at each of five looks, 0.15 s in all (memfd_wait_for_pins, mm/memfd.c), as a read uses it for a moment;
/// then it is asked again, for 3 s at the most.
pub fn seal(memfd: impl AsFd) -> io::Result<()> {
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    for _ in 1..TRIES {
        match rustix::fs::fcntl_add_seals(&memfd, all) {
            Err(Errno::BUSY) => {}
            other => return Ok(other?),
        }
    }
    Ok(rustix::fs::fcntl_add_seals(&memfd, all)?)
}

/// Whether `memfd` is sealed against every change.
pub fn is_sealed(memfd: impl AsFd) -> io::Result<bool> {
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(rustix::fs::fcntl_get_seals(memfd)?.contains(all))
}

/// A shared mapping of a part of a memfd of fixed size: the bytes that two processes exchange. The other process may
/// be hostile, so nothing that it may write is ever borrowed as plain memory; bytes are copied out.
#[derive(Debug)]
pub struct SharedBytes {
    start: *mut u8,
    length: usize,
}

// SAFETY: the mapping belongs to the value and lives until it is dropped; access goes through raw copies.
unsafe impl Send for SharedBytes {}

impl SharedBytes {
    /// Maps `length` bytes of `memfd` from `offset` on, a multiple of the page size. The file must be that long (a
    /// shorter one would mean SIGBUS on access; so it is checked here, and the maker seals its size).
    pub fn map(memfd: impl AsFd, offset: usize, length: usize) -> io::Result<Self> {
        let end = offset.checked_add(length).and_then(|end| i64::try_from(end).ok());
        if end.is_none_or(|end| rustix::fs::fstat(&memfd).map_or(true, |about| about.st_size < end)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let (protection, offset) = (ProtFlags::READ | ProtFlags::WRITE, offset as u64);
        let place = std::ptr::null_mut();
        // SAFETY: a fresh mapping at an address of the kernel's choice, of a file that is long enough.
        let start = unsafe { rustix::mm::mmap(place, length, protection, MapFlags::SHARED, memfd, offset) }?;
        Ok(Self { start: start.cast(), length })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies `from` to `offset`; false, and nothing copied, where that would leave the mapping.
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        if offset.checked_add(from.len()).is_none_or(|end| end > self.length) {
            return false;
        }
        // SAFETY: the range lies in the mapping (just tested) and `from` is other memory.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.start.add(offset), from.len()) };
        true
    }

    /// Lends the `length` bytes at `offset` to `write`, for it to fill. It must not believe what it finds there: the other
    /// process may have put it there. An error where the range leaves the mapping.
    pub fn fill<T>(
        &mut self,
        offset: usize,
        length: usize,
        write: impl FnOnce(&mut [u8]) -> io::Result<T>,
    ) -> io::Result<T> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the range lies in the mapping (just tested), which `&mut self` keeps this process from using
        // otherwise; any bytes are valid ones.
        write(unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), length) })
    }

    /// Copies from `offset` into `to`; false, and nothing copied, where that would leave the mapping.
    #[must_use]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        if offset.checked_add(to.len()).is_none_or(|end| end > self.length) {
            return false;
        }
        // SAFETY: the range lies in the mapping (just tested) and `to` is other memory.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(offset), to.as_mut_ptr(), to.len()) };
        true
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length and is not used after.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    #[test]
    fn a_sealed_memfd_takes_no_more_writes() {
        let memfd = create("test").unwrap();
        rustix::io::pwrite(&memfd, b"abc", 0).unwrap();
        assert!(!is_sealed(&memfd).unwrap());
        seal(&memfd).unwrap();
        assert!(is_sealed(&memfd).unwrap());
        assert_eq!(rustix::io::pwrite(&memfd, b"x", 0), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&memfd, 9), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn seals_what_is_being_read() {
        const SIZE: usize = 2 << 20;
        let reader = |memfd: &OwnedFd, over: &AtomicBool, reads: &AtomicUsize| {
            let mut bytes = vec![0; 200_000];
            for place in (0..).map(|n: u64| n * 7919 % 1800 * 1024) {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                rustix::io::pread(memfd, &mut bytes[..], place).unwrap();
                reads.fetch_add(1, Ordering::Relaxed);
            }
        };
        // Asked once, the kernel found a page in use at each of its looks in about one of a thousand.
        for _ in 0..1000 {
            let memfd = create("test").unwrap();
            rustix::io::pwrite(&memfd, &vec![7; SIZE], 0).unwrap();
            let (over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
            let (read, sealed) = std::thread::scope(|scope| {
                (0..3).for_each(|_| drop(scope.spawn(|| reader(&memfd, &over, &reads))));
                let begun = Instant::now();
                while reads.load(Ordering::Relaxed) < 9 && begun.elapsed() < Duration::from_secs(10) {
                    std::thread::yield_now();
                }
                let read = reads.load(Ordering::Relaxed);
                let sealed = seal(&memfd);
                over.store(true, Ordering::Relaxed);
                (read, sealed)
            });
            assert!(read >= 9, "only {read} reads within ten seconds");
            sealed.unwrap();
        }
    }

    #[test]
    fn copies_stay_inside_the_mapping() {
        let memfd = create("test").unwrap();
        rustix::fs::ftruncate(&memfd, 8192).unwrap();
        let mut bytes = SharedBytes::map(&memfd, 0, 8192).unwrap();
        assert!(bytes.write(8190, b"ab"));
        assert!(!bytes.write(8191, b"ab"));
        assert!(!bytes.write(usize::MAX, b"ab"));
        let mut out = [0; 2];
        assert!(bytes.read(8190, &mut out));
        assert_eq!(&out, b"ab");
        assert!(!bytes.read(8191, &mut out));
        let fill = |place: &mut [u8]| {
            place.fill(b'c');
            Ok(())
        };
        assert!(bytes.fill(8191, 1, fill).is_ok());
        assert!(bytes.fill(8191, 2, fill).is_err());
        assert!(bytes.read(8190, &mut out));
        assert_eq!(&out, b"ac");
        let mut second = SharedBytes::map(&memfd, 4096, 4096).unwrap();
        assert!(second.read(4094, &mut out) && !second.read(4095, &mut out));
        assert_eq!(&out, b"ac");
        assert!(second.fill(0, 1, fill).is_ok() && bytes.read(4096, &mut out[..1]) && out[0] == b'c');
        assert!(SharedBytes::map(&memfd, 4096, 8192).is_err());
        assert!(SharedBytes::map(&memfd, 1, 4096).is_err(), "not at the beginning of a page");
    }
}
