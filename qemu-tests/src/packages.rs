//! Debian packages, unpacked and never installed; kernels above all. Whatever the host's release, any suite can be
//! asked for: apt runs on lists and sources of its own, made from the host's mirror.

use crate::command::run;
use crate::places::{cache, once};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A Debian suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12: Linux 6.1.
    Bookworm,
    /// Debian 13: Linux 6.12.
    Trixie,
    /// The newest.
    Sid,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// A stock kernel with its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release, as `uname -r` says.
    pub release: String,
    /// The bootable file.
    pub vmlinuz: PathBuf,
    /// The folder that holds `lib/modules/RELEASE`, with `modules.dep` and the rest.
    pub modules: PathBuf,
}

/// The stock kernel of a suite.
pub fn kernel(suite: Suite) -> Result<Kernel> {
    let folder = cache("kernels")?.join(suite.name());
    once(&folder, |half| {
        let apt = Apt::of(suite)?;
        let depends = apt.query("show", "linux-image-amd64")?;
        let numbered =
            |word: &&str| word.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(char::is_numeric));
        let image = depends
            .lines()
            .find_map(|line| line.strip_prefix("Depends: ")?.split([' ', ',']).find(numbered))
            .with_context(|| format!("linux-image-amd64 of {suite:?} names no image"))?;
        fs::create_dir_all(half)?;
        apt.unpack(&apt.with_parts(image)?, half)?;
        // Debian's merged /usr: newer kernels bring usr/lib/modules.
        if !half.join("lib/modules").exists() {
            std::os::unix::fs::symlink("usr/lib", half.join("lib"))?;
        }
        let release = release(half)?;
        run(Command::new("depmod").arg("-b").arg(half).arg(release)).map(drop)
    })?;
    let release = release(&folder)?;
    let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
    let vmlinuz = places.map(|place| folder.join(place)).into_iter().find(|path| path.exists());
    Ok(Kernel { vmlinuz: vmlinuz.context("a kernel package without a kernel")?, release, modules: folder })
}

/// The only release whose modules lie in `folder`.
pub fn release(folder: &Path) -> Result<String> {
    let modules = folder.join("lib/modules");
    let first = fs::read_dir(&modules)?.next().with_context(|| format!("nothing in {}", modules.display()))??;
    Ok(first.file_name().to_string_lossy().into_owned())
}

/// A file of a package of Debian 12: the host's own where it is installed, else out of the unpacked package.
pub fn file(package: &str, path: &str) -> Result<PathBuf> {
    let installed = Path::new("/").join(path);
    if installed.exists() {
        return Ok(installed);
    }
    let folder = cache("packages")?.join(package);
    once(&folder, |half| {
        fs::create_dir_all(half)?;
        Apt::of(Suite::Bookworm)?.unpack(&[package.to_owned()], half)
    })?;
    let unpacked = folder.join(path);
    if !unpacked.exists() {
        bail!("{package} has no {path}");
    }
    Ok(unpacked)
}

/// A package of Debian 13 unpacked together with all that it depends on, down to the C library: a folder that is a root
/// of its own, whatever the host's release.
pub fn system(package: &str) -> Result<PathBuf> {
    let folder = cache("systems")?.join(package);
    once(&folder, |half| {
        fs::create_dir_all(half)?;
        Apt::of(Suite::Trixie)?.unpack_with_all(package, half)
    })?;
    Ok(folder)
}

/// A static busybox, as Debian 12 has it on every host.
pub fn busybox() -> Result<PathBuf> {
    let folder = cache("packages")?.join("busybox-static");
    once(&folder, |half| {
        fs::create_dir_all(half)?;
        Apt::of(Suite::Bookworm)?.unpack(&["busybox-static".to_owned()], half)
    })?;
    Ok(folder.join("bin/busybox"))
}

/// apt on lists of its own, fetched anew: a suite that moves soon lacks what old lists name.
struct Apt {
    folder: TempDir,
}

impl Apt {
    fn of(suite: Suite) -> Result<Self> {
        let apt = Self { folder: tempfile::tempdir()? };
        let folder = apt.folder.path();
        fs::create_dir_all(folder.join("lists"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        fs::write(folder.join("status"), "")?;
        fs::write(folder.join("sources.list"), format!("deb {} {} main\n", mirror()?, suite.name()))?;
        run(apt.command("apt-get").args(["update", "--error-on=any"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        for option in [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::State::Status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            "APT::Architecture=amd64".to_owned(),
            "APT::Update::Post-Invoke-Success=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Retries=5".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    fn query(&self, what: &str, package: &str) -> Result<String> {
        run(self.command("apt-cache").args([what, package]))
    }

    /// An image package, and those that a newer suite splits off it: they share the release in their names.
    fn with_parts(&self, image: &str) -> Result<Vec<String>> {
        let release = image.trim_start_matches("linux-image-");
        let about = self.query("show", image)?;
        let words = about.lines().filter(|line| line.starts_with("Depends: ")).flat_map(|line| line.split([' ', ',']));
        let parts = words.filter(|word| word.starts_with("linux-") && word.ends_with(release));
        Ok(std::iter::once(image).chain(parts).map(str::to_owned).collect())
    }

    /// Downloads packages and unpacks them into `folder`.
    fn unpack(&self, packages: &[String], folder: &Path) -> Result<()> {
        let downloads = tempfile::tempdir()?;
        run(self.command("apt-get").arg("download").args(packages).current_dir(downloads.path()))?;
        extract(downloads.path(), folder)
    }

    /// Downloads a package with its dependencies, none of which counts as installed, and unpacks them into `folder`.
    fn unpack_with_all(&self, package: &str, folder: &Path) -> Result<()> {
        let words = ["install", "--download-only", "--no-install-recommends", "--yes", package];
        run(self.command("apt-get").args(words))?;
        extract(&self.folder.path().join("cache/archives"), folder)
    }
}

/// Unpacks every package that lies in `packages` into `folder`.
fn extract(packages: &Path, folder: &Path) -> Result<()> {
    for file in fs::read_dir(packages)? {
        let file = file?.path();
        if file.extension().is_some_and(|kind| kind == "deb") {
            run(Command::new("dpkg").arg("-x").arg(file).arg(folder))?;
        }
    }
    Ok(())
}

/// The host's Debian mirror: the first source with the suites of a Debian archive.
fn mirror() -> Result<String> {
    let sources = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]))?;
    let archive = |line: &&str| {
        let mut words = line.split(' ');
        let (site, suite) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        !site.contains("security") && !suite.contains("security") && words.next() == Some("main")
    };
    let debian = |line: &&str| line.contains("debian");
    match sources.lines().filter(archive).find(debian) {
        Some(line) => Ok(line.split(' ').next().unwrap_or_default().to_owned()),
        None => bail!("apt has no source of Debian packages; it has:\n{sources}"),
    }
}
