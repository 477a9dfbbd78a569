//! The step that makes a root out of verified images: RAM disks, filesystems, overlay.

use crate::causes::filesystem_name;
use crate::failure::{Failure, Step};
use crate::messages::{Compressor, FilesystemKind, ImageFacts};
use crate::modules::{Mismatch, Modules, Outcome};
use crate::receive::Received;
use crate::settings::values::human;
use crate::sys::loopdev::{self, LoopDevice, Reads};
use crate::sys::mounts::{self, MountAttrFlags, MountFlags, Refused};
use crate::sys::tree;
use std::os::fd::AsFd;
use std::path::Path;

/// Where the assembled root stands before the switch.
pub const SYSROOT: &str = "/sysroot";
/// Where the booted system finds what rootbeam left: report, log and the overlay's parts.
pub const STATE: &str = "/run/rootbeam";
/// The images, read-only, each by its number: 0 is the image, layers stand above it.
const LOWER: &str = "/run/rootbeam/lower";
/// The overlay's tmpfs.
pub const WRITABLE: &str = "/run/rootbeam/rw";

/// The assembled root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The RAM disks, `/dev/loopN`: the image's, then those of the layers that are there.
    pub devices: Vec<String>,
}

/// Loads what the mounts will need while the network is being waited for. Nothing here is a failure yet: `mount`
/// says what is missing, for the filesystem that the image has.
pub fn prepare_kernel(modules: &mut Modules) {
    for name in ["loop", "overlay", "squashfs"] {
        match modules.load(name) {
            Ok(Outcome::Loaded(loaded)) => log::debug!("loaded {}", loaded.join(" ")),
            Ok(Outcome::Present | Outcome::Unknown) => {}
            Err(failure) => log::debug!("{failure}"),
        }
    }
}

/// Loads what the kernel needs for images of these filesystems.
pub fn require_kernel(
    filesystems: impl IntoIterator<Item = FilesystemKind>,
    modules: &mut Modules,
) -> Result<(), Failure> {
    require_filesystem("overlay", modules)?;
    require("loop", modules)?;
    filesystems.into_iter().try_for_each(|kind| require_filesystem(filesystem_name(kind), modules))
}

/// A loop device that stands on an image in memory, or on the served file of one that is not whole.
pub fn attach(file: impl AsFd, reads: Reads) -> Result<LoopDevice, Failure> {
    loopdev::attach(file, "rootbeam", reads).map_err(|e| {
        Failure::new(
            Step::Mount,
            "loop device",
            format!("the kernel gives none for the image: {e}"),
            "use a kernel of version 5.8 or newer with the loop driver, and pack its module",
        )
    })
}

/// Mounts the images, the topmost last, each read-only by its loop device, and the overlay over all of them at
/// [`SYSROOT`]. [`require_kernel`] went before.
pub fn mount(images: &[(LoopDevice, &Received)]) -> Result<Mounted, Failure> {
    for directory in [WRITABLE, SYSROOT] {
        std::fs::create_dir_all(directory).map_err(|e| failed(directory, &e.to_string()))?;
    }
    for (number, (device, received)) in images.iter().enumerate() {
        mount_image(&device.path, &received.facts, &lower(number))?;
    }
    // The last one was weighed beside all others.
    let overlay = images.last().map_or(0, |(_, received)| received.admitted.overlay);
    stack(images.len(), overlay)?;
    let devices: Vec<String> = images.iter().map(|(device, _)| device.path.clone()).collect();
    log::info!("root: {} under an overlay of at most {}", devices.join(", "), human(overlay));
    Ok(Mounted { devices })
}

/// Where the image of that number is mounted.
fn lower(number: usize) -> String {
    format!("{LOWER}/{number}")
}

fn mount_image(device: &str, facts: &ImageFacts, target: &str) -> Result<(), Failure> {
    let filesystem = filesystem_name(facts.filesystem);
    std::fs::create_dir_all(target).map_err(|e| failed(target, &e.to_string()))?;
    let prepared = mounts::prepare(filesystem, device, &[("ro", "")], MountAttrFlags::MOUNT_ATTR_RDONLY)
        .map_err(|refused| cannot_read(facts.filesystem, facts.compressor, &refused))?;
    prepared.attach(Path::new(target)).map_err(|e| failed(target, &e.to_string()))?;
    log::info!("{filesystem} on {device} at {target}");
    Ok(())
}

/// The writable layer on top of so many images. Neither nosuid nor nodev: it is the booted system's root.
fn stack(images: usize, limit: u64) -> Result<(), Failure> {
    let data = format!("mode=0755,size={limit}");
    let writable = Path::new(WRITABLE);
    mounts::virtual_filesystem("tmpfs", writable, MountFlags::empty(), &data)
        .map_err(|e| failed(WRITABLE, &e.to_string()))?;
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    for directory in [&upper, &work] {
        std::fs::create_dir(directory).map_err(|e| failed(WRITABLE, &e.to_string()))?;
    }
    // The root of an overlay has the attributes of its upper directory; they are the image's, for a layer is often made
    // from a folder that nobody else may enter.
    tree::copy_attributes(Path::new(&lower(0)), &upper).map_err(|e| failed(WRITABLE, &e.to_string()))?;
    // The first one named is the topmost.
    let lowers = (0..images).rev().map(lower).collect::<Vec<_>>().join(":");
    let options =
        [("lowerdir", lowers.as_str()), ("upperdir", "/run/rootbeam/rw/upper"), ("workdir", "/run/rootbeam/rw/work")];
    let overlay = mounts::prepare("overlay", "rootbeam", &options, MountAttrFlags::empty())
        .map_err(|e| failed("overlay", &e.to_string()))?;
    overlay.attach(Path::new(SYSROOT)).map_err(|e| failed(SYSROOT, &e.to_string()))
}

/// Loads the filesystem `name` and looks it up in /proc/filesystems.
pub fn require_filesystem(name: &str, modules: &mut Modules) -> Result<(), Failure> {
    require(name, modules)?;
    let known = std::fs::read("/proc/filesystems").unwrap_or_default();
    if lists_filesystem(&known, name) {
        return Ok(());
    }
    Err(match modules.mismatch() {
        Some(mismatch) => Failure {
            cause: format!("it does not have the filesystem {name} built in: {mismatch}"),
            remedy: Mismatch::REMEDY.to_owned(),
            ..without_filesystem(name)
        },
        None => without_filesystem(name),
    })
}

/// A kernel that has the filesystem `name` nowhere.
pub fn without_filesystem(name: &str) -> Failure {
    Failure::new(
        Step::Mount,
        format!("kernel without {name}"),
        format!("it has the filesystem {name} neither built in nor as a module of this initramfs"),
        format!("use a kernel with {name}, or pack the module with `rootbeam pack --include-module {name}`"),
    )
}

fn require(name: &str, modules: &mut Modules) -> Result<(), Failure> {
    match modules.load(name) {
        Ok(_) => Ok(()),
        Err(failure) => Err(Failure { step: Step::Mount, ..failure }),
    }
}

/// Whether /proc/filesystems (filesystems(5)) lists `name`.
fn lists_filesystem(list: &[u8], name: &str) -> bool {
    list.split(|b| *b == b'\n').any(|line| line.rsplit(|b| *b == b'\t').next() == Some(name.as_bytes()))
}

/// The kernel opened the verified image and did not like it: mostly a compressor that it was built without.
fn cannot_read(filesystem: FilesystemKind, compressor: Compressor, refused: &Refused) -> Failure {
    let (filesystem, compressor) = (filesystem_name(filesystem), compressor_name(compressor));
    let about_compression = refused.said.as_deref().is_some_and(|said| said.contains("compress"))
        // erofs: EOPNOTSUPP for a feature that the kernel does not have.
        || refused.is_unsupported();
    if about_compression {
        return Failure::new(
            Step::Mount,
            format!("{filesystem} image"),
            format!("it is compressed with {compressor}, which this kernel's {filesystem} lacks: {refused}"),
            format!(
                "build the image with another compressor (`rootbeam image build --compress`), or use a kernel with \
                 {filesystem} {compressor} support"
            ),
        );
    }
    Failure::new(
        Step::Mount,
        format!("{filesystem} image"),
        format!("the kernel does not mount it: {refused}"),
        "look at the kernel's own message above; make the image anew",
    )
}

/// The kernel's name of a compressor.
pub fn compressor_name(compressor: Compressor) -> &'static str {
    match compressor {
        Compressor::None => "none",
        Compressor::Gzip => "gzip",
        Compressor::Lzma => "lzma",
        Compressor::Lzo => "lzo",
        Compressor::Xz => "xz",
        Compressor::Lz4 => "lz4",
        Compressor::Zstd => "zstd",
        Compressor::Deflate => "deflate",
    }
}

fn failed(object: &str, cause: &str) -> Failure {
    Failure::new(Step::Mount, object, cause, "look at the kernel's own message above; give the machine more RAM")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::Policy;

    #[test]
    fn finds_a_filesystem_by_its_whole_name() {
        let list = b"nodev\tsysfs\nnodev\toverlay\n\tsquashfs\n";
        assert!(lists_filesystem(list, "squashfs") && lists_filesystem(list, "overlay"));
        assert!(!lists_filesystem(list, "squash") && !lists_filesystem(list, "nodev"));
    }

    #[test]
    fn a_filesystem_that_was_packed_for_another_kernel_asks_for_its_modules() {
        let root = std::env::temp_dir().join(format!("rootbeam-image-{}", std::process::id()));
        std::fs::create_dir_all(root.join("lib/modules/6.1.0-56")).unwrap();
        let told = |release| {
            let mut modules = Modules::open(&root, release, Policy::default()).unwrap();
            require_filesystem("nonefs", &mut modules).unwrap_err().to_string()
        };
        assert_eq!(
            told("6.1.0-50"),
            "FAILED at mount: kernel without nonefs: it does not have the filesystem nonefs built in: this initramfs has \
             modules for kernel 6.1.0-56, and kernel 6.1.0-50 is running. Remedy: pack it again with the modules of that \
             kernel."
        );
        assert_eq!(told("6.1.0-56"), without_filesystem("nonefs").to_string());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_missing_compressor_is_named() {
        let said = Some("squashfs: Filesystem uses \"lzma\" compression. This is not supported".to_owned());
        let failure = cannot_read(FilesystemKind::Squashfs, Compressor::Lzma, &Refused { errno: 22, said });
        assert!(failure.cause.starts_with("it is compressed with lzma, which this kernel's squashfs lacks"));
    }
}
