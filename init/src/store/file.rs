//! The image's memory file, and the running hash of the whole.

use crate::digest::Sha256;
use crate::sys::memory;
use sha2::Digest;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// The loop driver maps whole pages: an image that ends within one would be cut there.
const PAGE: u64 = 4096;
/// How much is read at once to catch up with a hash.
const CATCH_UP: usize = 256 << 10;

/// The image's memfd. Written by pwrite only: a shared writable mapping would forbid the seal.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    size: u64,
    whole: sha2::Sha256,
    hashed: u64,
    /// Whether a store that died may have left chunks here.
    inherited: bool,
}

impl ImageFile {
    /// Takes a memfd that may be sealed: an empty one, or what a store that died left.
    pub fn new(memfd: OwnedFd) -> Self {
        let file = File::from(memfd);
        let inherited = file.metadata().is_ok_and(|about| about.len() > 0);
        Self { file, size: 0, whole: sha2::Sha256::new(), hashed: 0, inherited }
    }

    /// Whether there is something that a store that died left.
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Gives it `size` bytes, rounded up to whole pages: zeros, unless a store that died left a file of this size.
    pub fn allocate(&mut self, size: u64) -> io::Result<()> {
        let pages = size.checked_next_multiple_of(PAGE).ok_or(io::ErrorKind::FileTooLarge)?;
        self.inherited &= self.file.metadata()?.len() == pages;
        if !self.inherited {
            self.file.set_len(0)?;
        }
        // One that is sealed was complete; its size cannot be changed, and need not.
        if !memory::is_sealed(&self.file)? {
            // The kernel zeroes what a file grows by, the rest of its last page included.
            self.file.set_len(size)?;
            self.file.set_len(pages)?;
        }
        self.size = size;
        self.start_over();
        Ok(())
    }

    /// Reads what a store that died left at `offset`.
    pub fn inherit(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    /// From now on an allocation gives zeros.
    pub fn disinherit(&mut self) {
        self.inherited = false;
    }

    /// Forgets the running hash.
    pub fn start_over(&mut self) {
        self.whole = sha2::Sha256::new();
        self.hashed = 0;
    }

    /// Another handle of the same file.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Writes a chunk.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Takes a chunk that was written, and that comes in order, into the running hash while it is in the cache.
    pub fn follow(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.hashed {
            self.whole.update(bytes);
            self.hashed += bytes.len() as u64;
        }
    }

    /// The hash of the whole; reads back what did not come in order.
    pub fn hash(&mut self) -> io::Result<Sha256> {
        let mut buffer = vec![0; CATCH_UP];
        while self.hashed < self.size {
            let most = usize::try_from(self.size - self.hashed).unwrap_or(CATCH_UP).min(CATCH_UP);
            let part = buffer.get_mut(..most).unwrap_or_default();
            self.file.read_exact_at(part, self.hashed)?;
            self.whole.update(&*part);
            self.hashed += most as u64;
        }
        Ok(Sha256(self.whole.clone().finalize().into()))
    }

    /// Whether it is complete and sealed.
    pub fn is_sealed(&self) -> io::Result<bool> {
        memory::is_sealed(&self.file)
    }

    /// Seals it for good, unless a store that died had come so far.
    pub fn seal(&self) -> io::Result<()> {
        if memory::is_sealed(&self.file)? { Ok(()) } else { memory::seal(&self.file) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_hash_is_that_of_the_bytes_in_whatever_order_they_came() {
        let bytes: Vec<u8> = (0..1_000_003).map(|n| (n % 251) as u8).collect();
        let mut image = ImageFile::new(memory::create("image").unwrap());
        image.allocate(bytes.len() as u64).unwrap();
        let mut chunks: Vec<_> = bytes.chunks(65_536).enumerate().collect();
        chunks.swap(3, 9);
        for (number, chunk) in chunks {
            image.write(number as u64 * 65_536, chunk).unwrap();
            image.follow(number as u64 * 65_536, chunk);
        }
        assert_eq!(image.hash().unwrap(), Sha256::of(&bytes));
        assert_eq!(image.file.metadata().unwrap().len(), 1_003_520);
        let mut tail = [1; 100];
        image.file.read_exact_at(&mut tail, bytes.len() as u64).unwrap();
        assert_eq!(tail, [0; 100]);
    }
    #[test]
    fn what_a_dead_store_left_stays_where_the_size_is_the_same() {
        let memfd = memory::create("image").unwrap();
        let mut first = ImageFile::new(memfd.try_clone().unwrap());
        first.allocate(10_000).unwrap();
        assert!(!first.is_inherited());
        first.write(4096, &[7; 100]).unwrap();
        // A page is mapped whole: whoever wrote beyond the end must not have the last word there.
        first.file.write_all_at(&[9; 100], 10_050).unwrap();
        let mut second = ImageFile::new(memfd.try_clone().unwrap());
        second.allocate(10_000).unwrap();
        assert!(second.is_inherited());
        let mut page = [0; 4096];
        second.inherit(4096, &mut page).unwrap();
        assert_eq!((page[..100].to_vec(), page[100..].to_vec()), (vec![7; 100], vec![0; 3996]));
        second.inherit(8192, &mut page).unwrap();
        assert_eq!(page, [0; 4096]);
        let mut third = ImageFile::new(memfd);
        third.allocate(10_001).unwrap();
        third.disinherit();
        third.allocate(10_001).unwrap();
        third.inherit(4096, &mut page).unwrap();
        assert_eq!(page, [0; 4096]);
    }

    #[test]
    fn a_file_that_a_dead_store_sealed_is_taken_as_it_is() {
        let memfd = memory::create("image").unwrap();
        let mut first = ImageFile::new(memfd.try_clone().unwrap());
        first.allocate(5000).unwrap();
        first.write(0, &[7; 5000]).unwrap();
        first.seal().unwrap();
        let mut second = ImageFile::new(memfd);
        second.allocate(5000).unwrap();
        second.seal().unwrap();
        assert_eq!(second.hash().unwrap(), Sha256::of(&[7; 5000]));
    }
}
