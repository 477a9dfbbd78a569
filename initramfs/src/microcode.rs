//! Processor microcode: the kernel looks for it before it unpacks anything, in an archive of its own that is not
//! compressed and comes first.

use crate::archive;
use crate::compress::Compression;
use crate::tree::Tree;

const INTEL: &str = "kernel/x86/microcode/GenuineIntel.bin";
const AMD: &str = "kernel/x86/microcode/AuthenticAMD.bin";

/// The file is no microcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is neither an uncompressed archive with kernel/x86/microcode nor microcode of Intel or AMD as the kernel \
     reads it"
)]
pub struct NotMicrocode;

/// The early archive for a file: an archive as distributions ship it is taken as it is, plain microcode is put into
/// one. The result is padded to 512 bytes, as cpio(1) does.
pub fn early_archive(file: &[u8]) -> Result<Vec<u8>, NotMicrocode> {
    let mut early = match Compression::detect(file) {
        Some(Compression::None) => {
            let archives = archive::read(file).map_err(|_| NotMicrocode)?;
            let prefix = b"kernel/x86/microcode/";
            let holds_it = archives.iter().flat_map(|a| &a.entries).any(|entry| entry.path.starts_with(prefix));
            let plain = archives.iter().all(|a| a.compression == Compression::None);
            if holds_it && plain { file.to_vec() } else { return Err(NotMicrocode) }
        }
        _ => {
            let mut tree = Tree::new();
            tree.file(path_for(file).ok_or(NotMicrocode)?, file);
            tree.to_newc(0).map_err(|_| NotMicrocode)?
        }
    };
    early.resize(early.len().next_multiple_of(512), 0);
    Ok(early)
}

/// By the first words: AMD's container has a magic number, Intel's updates a header version and a loader revision 1.
fn path_for(file: &[u8]) -> Option<&'static str> {
    let word = |index: usize| file.get(4 * index..4 * index + 4)?.try_into().ok().map(u32::from_le_bytes);
    match (word(0)?, word(5)) {
        (0x0041_4d44, _) => Some(AMD),
        (1, Some(1)) if file.len() >= 48 => Some(INTEL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_microcode_gets_its_archive_and_an_archive_stays_as_it_is() {
        let mut intel = vec![0u8; 48];
        intel[0] = 1;
        intel[20] = 1;
        let amd = b"DMA\0rest".to_vec();
        for (file, path) in [(&intel, INTEL), (&amd, AMD)] {
            let early = early_archive(file).unwrap();
            let archives = archive::read(&early).unwrap();
            let paths: Vec<_> = archives[0].entries.iter().map(|e| e.path.clone()).collect();
            assert_eq!(paths.last().unwrap(), path.as_bytes());
            assert_eq!(archives[0].data(archives[0].entries.last().unwrap()), file.as_slice());
            assert_eq!(early_archive(&early).unwrap(), early);
        }
    }

    #[test]
    fn refuses_what_the_kernel_would_not_find() {
        let mut other = Tree::new();
        other.file("init", "x");
        let other = other.to_newc(0).unwrap();
        for bad in [b"".as_slice(), b"text", &other, b"\x1f\x8b\x08\0"] {
            assert_eq!(early_archive(bad), Err(NotMicrocode));
        }
    }
}
