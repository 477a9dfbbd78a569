//! Firmware that modules name: found below a root's lib/firmware, unpacked, so that every kernel can read it.

use crate::compress::unpack_file;
use crate::kernel::Kernel;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The largest firmware file that is read, unpacked, in bytes.
const MAX_FIRMWARE: usize = 256 << 20;

/// Firmware for a set of modules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Names below lib/firmware, and contents.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Names that are nowhere, with the modules that may ask for them.
    pub missing: BTreeMap<String, Vec<String>>,
}

/// A firmware file that is there and cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}: {1}")]
pub struct FirmwareError(PathBuf, String);

impl Firmware {
    /// Looks for the files that the pairs (module, name) name, in the folders and forms in which the kernel would
    /// look for them: plain, or compressed by xz or zstd.
    pub fn find<'a>(
        kernel: &Kernel,
        wanted: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, FirmwareError> {
        let folders: Vec<PathBuf> = kernel.root().map(|root| folders(root, &kernel.release)).unwrap_or_default();
        let mut firmware = Self::default();
        for (module, name) in wanted.into_iter().filter(|(_, name)| is_inside(name)) {
            if firmware.files.contains_key(name) {
                continue;
            }
            match folders.iter().find_map(|folder| existing(folder, name)) {
                Some(path) => {
                    let error = |text: String| FirmwareError(path.clone(), text);
                    let bytes = fs::read(&path).map_err(|e| error(e.to_string()))?;
                    let packed = path.extension().is_some_and(|suffix| suffix == "xz" || suffix == "zst");
                    let data = if packed && !name.ends_with(".xz") {
                        unpack_file(bytes, MAX_FIRMWARE).map_err(|e| error(e.to_string()))?
                    } else {
                        bytes
                    };
                    firmware.files.insert(name.to_owned(), data);
                }
                None => firmware.missing.entry(name.to_owned()).or_default().push(module.to_owned()),
            }
        }
        Ok(firmware)
    }
}

/// Whether the name stays below lib/firmware. A few modules name patterns; those name no file.
fn is_inside(name: &str) -> bool {
    !name.contains(['*', '?', '[']) && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The kernel's own search order.
fn folders(root: &Path, release: &str) -> Vec<PathBuf> {
    let bases = [root.join("lib/firmware"), root.join("usr/lib/firmware")];
    let below = [format!("updates/{release}"), "updates".to_owned(), release.to_owned(), String::new()];
    below.iter().flat_map(|sub| bases.iter().map(move |base| base.join(sub))).collect()
}

fn existing(folder: &Path, name: &str) -> Option<PathBuf> {
    ["", ".zst", ".xz"].iter().map(|suffix| folder.join(format!("{name}{suffix}"))).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Packing;

    #[test]
    fn finds_plain_and_packed_files_and_names_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, data: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
        };
        write("lib/modules/6.1/kernel/a.ko", b"");
        write("lib/firmware/plain.bin", b"old");
        write("lib/firmware/updates/plain.bin", b"plain");
        write("usr/lib/firmware/d/x.bin.xz", &Packing::Xz.pack(b"from xz", |_| ()).unwrap());
        write("lib/firmware/z.bin.zst", &Packing::Zstd.pack(b"from zstd", |_| ()).unwrap());
        write("lib/secret", b"no");
        let kernel = Kernel::find(root.path(), None).unwrap();
        let names = ["plain.bin", "d/x.bin", "z.bin", "gone.bin", "../secret", "d/*.bin"];
        let firmware = Firmware::find(&kernel, names.iter().map(|name| ("tg3", *name))).unwrap();
        let expected = Firmware {
            files: [("plain.bin", "plain"), ("d/x.bin", "from xz"), ("z.bin", "from zstd")]
                .map(|(name, data)| (name.to_owned(), data.as_bytes().to_vec()))
                .into(),
            missing: [("gone.bin".to_owned(), vec!["tg3".to_owned()])].into(),
        };
        assert_eq!(firmware, expected);
    }
}
