//! Streaming, PID 1's side of it: whether an image can be, who carries it over the hand-over, and what is told meanwhile.

pub mod assembly;
pub mod attendant;
mod ending;
pub mod keeper;
pub mod status;
pub mod streams;
mod trace;
mod warm;

use crate::contract::{RESOLVER, fd, role};
use crate::failure::{Failure, Step};
use crate::image;
use crate::messages::{ImageFacts, Trust};
use crate::modules::Modules;
use crate::settings::Settings;
use crate::settings::values::{Mode, StreamStall};
use crate::sys::machine::Restart;
use crate::sys::worker::Program;
use crate::sys::{mounts, sandbox};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

/// The mount that the folder lies in.
const RUN: &str = "/run";
/// The workers' folder while they outlive the hand-over; the keeper's own, who removes what is in it.
pub const FOLDER: &str = "/run/rootbeam/stream";
/// The program that the workers run from, in the folder.
pub const PROGRAM: &str = "rootbeam";
/// Where the booted system's tools look for how far it is: a link into the folder.
const LINK: &str = "/run/rootbeam/stream.json";
/// How far it is, in the folder.
pub const STATUS: &str = "status.json";
/// What the booted system reads first, in the folder, where that is recorded.
pub const TRACE: &str = "trace";
/// Which processes a sysvinit has to spare, in the folder.
pub const PIDS: &str = "pids";
/// What is said where `rootbeam.stream.stall=reboot:` restarts the machine.
const STALLED: &str = "image: what is to be read does not come: the machine restarts";
/// Where Debian's sysvinit looks for such lists before it ends all processes (/etc/init.d/sendsigs).
const SPARED: &str = "/run/sendsigs.omit.d";

/// What the workers are started from. Those that will outlive the hand-over run from one copy, so that the files of the
/// initramfs are free when they are deleted.
pub fn program(settings: &Settings) -> Result<Program, Failure> {
    if settings.mode == Mode::Ram {
        return Ok(Program::Own);
    }
    // An attempt before may have come so far.
    clear();
    let open = || -> io::Result<OwnedFd> {
        let folder = Path::new(FOLDER);
        fs::create_dir_all(folder)?;
        let copy = folder.join(PROGRAM);
        fs::copy("/proc/self/exe", &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o555))?;
        symlink(Path::new("stream").join(STATUS), LINK)?;
        chown(folder, Some(sandbox::KEEPER), Some(sandbox::KEEPER))?;
        // Debian's sysvinit makes /run noexec, and fetch workers are started after that.
        let inside = copy.strip_prefix(RUN).map_err(io::Error::other)?;
        mounts::open_apart(Path::new(RUN), inside)
    };
    open()
        .map(Program::Open)
        .map_err(|e| Failure::new(Step::Worker, role::KEEPER, format!("{FOLDER}: {e}"), "give the machine more RAM"))
}

/// What a keeper works with.
#[derive(Debug)]
pub struct Tools {
    folder: File,
    /// Where a sysvinit tells its run level.
    run: File,
    /// What the workers' names are found by.
    resolver: File,
    /// What restarts the machine, where that is asked for.
    restart: Option<Restart>,
}

impl Tools {
    /// Each with the number that it has in the keeper.
    pub fn descriptors(&self) -> Vec<(BorrowedFd<'_>, i32)> {
        let restart = self.restart.iter().map(|restart| (restart.as_fd(), fd::RESTART));
        let always = [(&self.folder, fd::FOLDER), (&self.run, fd::RUN), (&self.resolver, fd::RESOLVER)];
        always.into_iter().map(|(file, number)| (file.as_fd(), number)).chain(restart).collect()
    }
}

/// Opens what the keeper works with.
pub fn tools(settings: &Settings) -> Result<Tools, Failure> {
    let failed = |path: &str, e: &io::Error| {
        Failure::new(Step::Worker, path, e.to_string(), "report this as a bug, with the log")
    };
    let open = |path: &str| File::open(path).map_err(|e| failed(path, &e));
    let resolver = OpenOptions::new().write(true).create(true).truncate(false).open(Path::new("/").join(RESOLVER));
    let resolver = resolver.map_err(|e| failed(RESOLVER, &e))?;
    let restart = match settings.stream_stall {
        StreamStall::Reboot(_) => Some(restart()?),
        StreamStall::Wait | StreamStall::Eio(_) => None,
    };
    Ok(Tools { folder: open(FOLDER)?, run: open(RUN)?, resolver, restart })
}

fn restart() -> Result<Restart, Failure> {
    Restart::open().map_err(|e| {
        let remedy = "use a kernel with the magic SysRq key, or another rootbeam.stream.stall=";
        Failure::new(Step::Worker, "/proc/sysrq-trigger", e.to_string(), remedy)
    })
}

/// Tells a sysvinit to spare these processes when it shuts down. What it reads is a link to a list that the keeper removes
/// when it ends: a number may be another process's by then, which would be spared and keep its files in use.
pub fn spare(pids: &[i32]) {
    let list = Path::new(FOLDER).join(PIDS);
    let text: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
    let told = || -> io::Result<()> {
        // The folder is the keeper's: where there is something of that name already, it is neither followed nor written.
        File::options().write(true).create_new(true).open(&list)?.write_all(text.as_bytes())?;
        fs::create_dir_all(SPARED)?;
        symlink(&list, Path::new(SPARED).join(PROGRAM))
    };
    if let Err(error) = told() {
        log::warn!("{SPARED}: {error}: a sysvinit that shuts down before the image is whole ends what it comes from");
    }
}

/// Removes what [`program`] made, where nothing is streamed after all.
pub fn clear() {
    let _ = fs::remove_file(LINK);
    let _ = fs::remove_dir_all(FOLDER);
}

/// What the kernel must have that an image can be streamed.
pub const FILESYSTEM: &str = "fuse";

/// Why an image is not streamed, though it could be by what it is; none where it is.
pub fn obstacle(facts: &ImageFacts, modules: &mut Modules) -> Option<String> {
    if facts.trust == Trust::Unverified {
        return Some("nothing vouches for its chunks".to_owned());
    }
    if let Err(failure) = image::require_filesystem(FILESYSTEM, modules) {
        return Some(lacking(&failure));
    }
    (!Path::new("/dev/fuse").exists()).then(|| "there is no /dev/fuse".to_owned())
}

/// The reason that a kernel without [`FILESYSTEM`] is.
pub fn lacking(failure: &Failure) -> String {
    format!("{}: {}", failure.object, failure.cause)
}

/// Why an image is loaded before it is used, where somebody asked for it to be streamed.
pub fn reason(settings: &Settings, facts: &ImageFacts, obstacle: Option<String>) -> Option<String> {
    match settings.mode {
        Mode::Ram => None,
        // An image that is small is whole before it can be served.
        Mode::Stream | Mode::Auto => {
            obstacle.or_else(|| whole_first(settings, facts.trust, facts.manifest.is_some()).map(str::to_owned))
        }
    }
}

/// Why an image that is vouched for so, by a manifest or not, cannot be read before it is whole.
pub fn whole_first(settings: &Settings, trust: Trust, has_manifest: bool) -> Option<&'static str> {
    // A layer is never pinned, nor is what a key has signed.
    let by_whole = trust == Trust::Pinned && settings.manifest.is_none();
    match has_manifest {
        false => Some("it has no hash for each of its chunks"),
        true if by_whole => Some("rootbeam.sha256= vouches for the whole of it alone"),
        true => None,
    }
}

/// What is said of an image of that name that is loaded before it is used, and why.
pub fn loaded_first(name: &str, why: &str) -> String {
    format!("the {name} is loaded before it is used: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;
    use crate::messages::{Compressor, FilesystemKind};

    #[test]
    fn the_images_own_hash_is_no_reason_for_a_layer() {
        let line = format!("rootbeam.mode=auto rootbeam.sha256={}", Sha256([1; 32]));
        let (settings, _) = Settings::parse(b"", line.as_bytes());
        let facts = |trust| ImageFacts {
            filesystem: FilesystemKind::Squashfs,
            compressor: Compressor::Zstd,
            size: 4096,
            sha256: None,
            trust,
            signers: vec![],
            manifest: Some(Sha256([2; 32])),
            version: Some(1),
            date: None,
            layers: vec![],
        };
        let why = Some("rootbeam.sha256= vouches for the whole of it alone".to_owned());
        let reasons = [Trust::Pinned, Trust::Checksummed].map(|trust| reason(&settings, &facts(trust), None));
        assert_eq!(reasons, [why, None]);
    }
}
