//! Root images for machines under test, built once and kept by a digest of their recipe.

use crate::command::{exists, run};
use crate::packages::{Kernel, release};
use crate::places::{cache, helper, once, project, shipped_rootbeam, sum};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Compression and options of every squashfs here: the same bytes from the same tree.
const SQUASH: [&str; 9] =
    ["-comp", "zstd", "-noappend", "-quiet", "-no-progress", "-all-root", "-mkfs-time", "0", "-no-exports"];

/// The same for every erofs.
const EROFS: [&str; 3] = ["--all-root", "-T0", "-U00000000-0000-0000-0000-000000000000"];

/// A tree of files to be made into an image.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: Vec<(String, u32, Vec<u8>)>,
    folders: Vec<String>,
    links: Vec<(String, String)>,
}

impl Tree {
    /// The folders that every root needs to be mounted upon.
    pub fn root() -> Self {
        let folders = ["dev", "etc", "proc", "run", "sys", "tmp", "sbin", "bin"];
        Self { folders: folders.map(str::to_owned).into(), ..Self::default() }
    }

    /// With a file of these permission bits; folders on the way are made.
    pub fn file(mut self, path: &str, mode: u32, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.to_owned(), mode, contents.into()));
        self
    }

    /// With a folder.
    pub fn folder(mut self, path: &str) -> Self {
        self.folders.push(path.to_owned());
        self
    }

    /// With a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.links.push((path.to_owned(), target.to_owned()));
        self
    }

    /// Writes it under `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let parent = |path: &str| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap_or(folder)).map(|()| path)
        };
        for path in &self.folders {
            fs::create_dir_all(folder.join(path))?;
        }
        for (path, mode, contents) in &self.files {
            let path = parent(path)?;
            fs::write(&path, contents)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
        }
        for (path, target) in &self.links {
            std::os::unix::fs::symlink(target, parent(path)?)?;
        }
        Ok(())
    }

    fn digest(&self) -> String {
        let mut recipe = Sha256::new();
        for (path, mode, contents) in &self.files {
            recipe.update(format!("{path:?} {mode:o} {}\n", contents.len()));
            recipe.update(contents);
        }
        recipe.update(format!("{:?} {:?}", self.folders, self.links));
        short(&recipe.finalize())
    }

    /// A squashfs of it, called `name` in the cache.
    pub fn squashfs(&self, name: &str) -> Result<PathBuf> {
        self.image(name, "squashfs", |folder, image| {
            run(Command::new("mksquashfs").arg(folder).arg(image).args(SQUASH)).map(drop)
        })
    }

    /// An erofs of it, called `name` in the cache.
    pub fn erofs(&self, name: &str) -> Result<PathBuf> {
        self.image(name, "erofs", |folder, image| {
            run(Command::new("mkfs.erofs").args(EROFS).arg("-zlz4").arg(image).arg(folder)).map(drop)
        })
    }

    /// A newc archive of it without compression, called `name` in the cache.
    pub fn archive(&self, name: &str) -> Result<PathBuf> {
        self.image(name, "cpio", |folder, image| {
            let script = "cd \"$1\" && find . | sort | cpio --create --format=newc --quiet --owner=0:0 >\"$2\"";
            run(Command::new("sh").args(["-c", script, "sh"]).arg(folder).arg(image)).map(drop)
        })
    }

    fn image(&self, name: &str, kind: &str, make: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
        let image = cache("images")?.join(format!("{name}-{}.{kind}", self.digest()));
        once(&image, |half| {
            let folder = tempfile::tempdir()?;
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
            self.write(folder.path())?;
            make(folder.path(), half)
        })?;
        Ok(image)
    }
}

/// The first twelve hex digits of a SHA-256: the name of a recipe.
pub fn digest(recipe: &[u8]) -> String {
    short(&Sha256::digest(recipe))
}

fn short(hash: &[u8]) -> String {
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The probe, without its symbols: `/sbin/init` of [`probe_tree`].
pub fn probe_program() -> Result<Vec<u8>> {
    let probe = helper("probe")?;
    let stripped = cache("images")?.join(format!("probe-{}", sum(&probe)?));
    once(&stripped, |half| run(Command::new("objcopy").arg("--strip-all").arg(&probe).arg(half)).map(drop))?;
    fs::read(stripped).context("cannot read the probe")
}

/// The smallest root whose real init reports its world; its machine-id is empty, to be filled in.
pub fn probe_tree() -> Result<Tree> {
    Ok(Tree::root().file("sbin/init", 0o755, probe_program()?).file("etc/machine-id", 0o444, ""))
}

/// [`probe_tree`] as a squashfs.
pub fn probe() -> Result<PathBuf> {
    probe_tree()?.squashfs("probe")
}

/// The same, and it looks like an image of `kernel`, of whose modules the probe needs none.
pub fn probe_for(kernel: &Kernel) -> Result<PathBuf> {
    let list = format!("lib/modules/{}/modules.dep", kernel.release);
    probe_tree()?.file(&list, 0o644, "").squashfs(&format!("probe-{}", kernel.release))
}

/// [`probe_tree`] as a squashfs with about `size` bytes of noise, which no compression removes, in `/noise`.
pub fn probe_with_noise(size: u64) -> Result<PathBuf> {
    with_noise(size, "squashfs", |folder, image| {
        // Noise is not even tried to be compressed: that would take minutes a gigabyte.
        run(Command::new("mksquashfs").arg(folder).arg(image).args(SQUASH).args(["-noD", "-noF"])).map(drop)
    })
}

/// The same as an erofs.
pub fn probe_with_noise_erofs(size: u64) -> Result<PathBuf> {
    with_noise(size, "erofs", |folder, image| {
        run(Command::new("mkfs.erofs").args(EROFS).arg(image).arg(folder)).map(drop)
    })
}

fn with_noise(size: u64, kind: &str, make: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let tree = probe_tree()?;
    let image = cache("images")?.join(format!("noise-{size}-{}.{kind}", tree.digest()));
    once(&image, |half| {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        tree.write(folder.path())?;
        noise(&folder.path().join("noise"), size)?;
        make(folder.path(), half)
    })?;
    Ok(image)
}

/// An image of exactly `size` bytes that reports its world: [`probe`], and noise of `seed` behind the end of its
/// filesystem, so that no two places or seeds have the same bytes.
pub fn probe_of(size: u64, seed: u64) -> Result<Vec<u8>> {
    let mut image = fs::read(probe()?)?;
    let more = usize::try_from(size)?.checked_sub(image.len());
    let start = image.len();
    image.resize(start + more.with_context(|| format!("the probe alone has {start} bytes, more than {size}"))?, 0);
    fastrand::Rng::with_seed(seed).fill(image.get_mut(start..).unwrap_or_default());
    Ok(image)
}

/// Writes a file of the same noise on every machine.
fn noise(path: &Path, size: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    let mut state: u64 = 0x2006;
    for _ in 0..size / 8 {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush().map_err(Into::into)
}

/// A folder to be served with `image` under `name`, its manifest and chunk list beside it, by the shipped tool.
pub fn published(image: &Path, name: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir_in(cache("images")?)?;
    let copy = folder.path().join(name);
    fs::hard_link(image, &copy).or_else(|_| fs::copy(image, &copy).map(drop))?;
    manifest(&copy)?;
    Ok(folder)
}

/// The same for an image in memory.
pub fn published_bytes(image: &[u8], name: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir_in(cache("images")?)?;
    let copy = folder.path().join(name);
    fs::write(&copy, image)?;
    manifest(&copy)?;
    Ok(folder)
}

/// Publishes `image`, which was before, anew with a boot order.
pub fn order(image: &Path, order: &Path) -> Result<()> {
    let mut tool = Command::new(shipped_rootbeam()?);
    run(tool.args(["--quiet", "image", "manifest"]).arg(image).arg("--boot-order").arg(order)).map(drop)
}

fn manifest(image: &Path) -> Result<()> {
    run(Command::new(shipped_rootbeam()?).args(["--quiet", "image", "manifest"]).arg(image)).map(drop)
}

/// Busybox's init with a login on the first serial port; root's password is `rootbeam`.
pub fn busybox() -> Result<PathBuf> {
    let busybox = fs::read(crate::packages::busybox()?)?;
    // crypt(3) of "rootbeam", MD5 with a fixed salt: the image must be the same each time.
    let shadow = run(Command::new("openssl").args(["passwd", "-1", "-salt", "rootbeam", "rootbeam"]))?;
    let mut tree = Tree::root()
        .file("bin/busybox", 0o755, busybox)
        .file("etc/inittab", 0o644, "::sysinit:/bin/hostname -F /etc/hostname\nttyS0::respawn:/bin/getty -L 115200 ttyS0 vt100\n::ctrlaltdel:/bin/reboot\n::shutdown:/bin/umount -a -r\n")
        .file("etc/hostname", 0o644, "busybox-node\n")
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n")
        .file("etc/group", 0o644, "root:x:0:\n")
        .file("etc/shadow", 0o600, format!("root:{}:19000:0:99999:7:::\n", shadow.trim()))
        .folder("root")
        .link("sbin/init", "../bin/busybox");
    for applet in
        ["sh", "getty", "login", "hostname", "reboot", "poweroff", "umount", "cat", "ls", "mount", "ps", "uname"]
    {
        tree = tree.link(&format!("bin/{applet}"), "busybox");
    }
    tree.squashfs("busybox")
}

/// Debian with sysvinit and a login on the first serial port; root's password is `rootbeam`.
pub fn sysvinit() -> Result<PathBuf> {
    built("sysvinit", &project().join("qemu-tests/images/sysvinit"))
}

/// Debian with a systemd that knows soft reboots, three programs that manage the network, none of them enabled, and a login
/// on the first serial port; root's password is `rootbeam`.
pub fn trixie() -> Result<PathBuf> {
    built("trixie", &project().join("qemu-tests/images/trixie"))
}

/// The web node of `make demo`: Debian with systemd, lighttpd and PHP, its kernel and modules beside it.
pub fn web() -> Result<Web> {
    let image = built("web", &project().join("examples/web"))?;
    let beside = |suffix: &str| image.with_extension(suffix);
    Ok(Web { vmlinuz: beside("vmlinuz"), modules: beside("modules"), image })
}

/// The parts of the web node.
#[derive(Clone, Debug)]
pub struct Web {
    /// The root image, squashfs.
    pub image: PathBuf,
    /// Its kernel.
    pub vmlinuz: PathBuf,
    /// The folder that holds `lib/modules/RELEASE` of that kernel.
    pub modules: PathBuf,
}

impl Web {
    /// Its kernel with its modules.
    pub fn kernel(&self) -> Result<Kernel> {
        let release = release(&self.modules)?;
        Ok(Kernel { release, vmlinuz: self.vmlinuz.clone(), modules: self.modules.clone() })
    }
}

/// Whether this host can build Debian trees; the error says what is missing.
pub fn debian() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "building a Debian tree needs root");
    ensure!(exists("mmdebstrap"), "mmdebstrap is missing: run `make deps`");
    Ok(())
}

/// The initrd.img of Debian's own tools for Debian's own kernel, and what those tools list of it.
pub fn debian_initrd() -> Result<(PathBuf, PathBuf)> {
    let image = built_as("initrd", &project().join("qemu-tests/images/initrd"), "root.initrd")?;
    let names = image.with_extension("names");
    Ok((image, names))
}

/// The image that `folder/build OUT` makes; anything in the folder is part of the recipe.
fn built(name: &str, folder: &Path) -> Result<PathBuf> {
    built_as(name, folder, "root.squashfs")
}

/// The same with another name for what is made.
fn built_as(name: &str, folder: &Path, file: &str) -> Result<PathBuf> {
    let mut recipe = Sha256::new();
    let mut files: Vec<_> = Vec::new();
    list(folder, &mut files)?;
    files.sort();
    for file in files {
        recipe.update(file.strip_prefix(folder)?.to_string_lossy().as_bytes());
        recipe.update(fs::read(&file)?);
    }
    let hex = short(&recipe.finalize());
    let made = cache("images")?.join(format!("{name}-{hex}"));
    once(&made, |half| {
        fs::create_dir(half)?;
        run(Command::new(folder.join("build")).arg(half.join(file))).map(drop)
    })?;
    Ok(made.join(file))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
