//! `rootbeam boot`: tries kernel, initramfs and image in a QEMU machine.

pub mod machine;
mod outcome;
pub mod tftp;

use crate::child::dies_with_us;
use crate::serve::log::Log;
use crate::serve::server::{Server, url_path};
use crate::term::{Term, result};
use anyhow::{Context, Result, bail};
use machine::{Accel, Forward, HOST, Machine, Nic, Serial, Start, shell_line};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::channel;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  rootbeam boot --kernel vmlinuz --initramfs initramfs.zst --image web.squashfs
  rootbeam boot --kernel vmlinuz --initramfs initramfs.zst --image web.squashfs --pxe --forward 8080:80
  rootbeam boot --kernel vmlinuz --initramfs initramfs.zst --image https://boot.example/web.squashfs \\
      --append 'rootbeam.on-failure=poweroff rootbeam.log=debug' --timeout 300
  rootbeam boot --kernel vmlinuz --initramfs initramfs.zst --image web.squashfs --dry-run

An image that is a file is served to the machine from its folder, with its manifest and chunk list where they are
beside it. With --pxe the machine's own firmware boots PXELINUX (packages pxelinux, syslinux-common and ipxe-qemu)
from a temporary TFTP folder.

The serial console is on the terminal; Ctrl-A X ends the machine. Reboot and power-off end it too.

Exit codes:
  0  the machine was ended, by itself or at the console, and its init did not end it for a failed boot
  1  the boot failed, and init ended the machine (at once with rootbeam.on-failure=poweroff, else after a minute); or
     --timeout was over; or something here failed, such as QEMU
  2  wrong usage
What the booted system does is not judged. A failure is known by the FAILED line on the console, so not where --serial
names something that is no regular file; with --reboot one that init follows by a reboot does not count.";

/// Arguments of `rootbeam boot`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The kernel
    #[arg(long, value_name = "VMLINUZ")]
    pub kernel: PathBuf,
    /// The initramfs that `rootbeam pack` made for that kernel
    #[arg(long, value_name = "FILE")]
    pub initramfs: PathBuf,
    /// The root image: a file, or a URL as the machine sees it
    #[arg(long, value_name = "FILE|URL")]
    pub image: String,
    /// Boot over the network by the machine's firmware and PXELINUX
    #[arg(long)]
    pub pxe: bool,
    /// Memory; without a unit in MiB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    pub memory: u64,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub cpus: u32,
    /// Further words of the kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub append: String,
    /// Let port HOST of 127.0.0.1 lead to port GUEST of the machine; may be given several times
    #[arg(long, value_name = "HOST:GUEST")]
    pub forward: Vec<Forward>,
    /// The machine's network card
    #[arg(long, value_enum, default_value_t = Nic::Virtio)]
    pub nic: Nic,
    /// What executes the machine; kvm is taken only when asked for, as a /dev/kvm that opens may still hang a guest
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    pub accel: Accel,
    /// Where the serial console goes: `stdio` or a file
    #[arg(long, value_name = "stdio|FILE", default_value = "stdio")]
    pub serial: PathBuf,
    /// Let the machine reboot instead of ending it there
    #[arg(long)]
    pub reboot: bool,
    /// End the machine after that many seconds, as a failure
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// The QEMU program
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,
    /// Print the QEMU command and start nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Reads a size as QEMU's `-m` does, into MiB.
fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let mebibytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    mebibytes.filter(|size| *size > 0).ok_or_else(|| "write it as 512M or 2G".into())
}

/// Runs `rootbeam boot`.
pub fn run(args: Args, term: &Term) -> Result<()> {
    for file in [&args.kernel, &args.initramfs] {
        std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    }
    let log = if term.is_quiet() || args.dry_run { Log::none() } else { Log::stderr() };
    let (url, server) = image_url(&args.image, log)?;
    let command_line = command_line(&url, &args.append);
    let (start, _tree) = if args.pxe {
        require_rom(args.nic, term);
        let tree = tftp::tree(&args.kernel, &args.initramfs, &command_line)?;
        (Start::Pxe { tftp: tree.path().to_owned(), file: tftp::BOOT_FILE.into() }, Some(tree))
    } else {
        (Start::Direct { kernel: args.kernel, initramfs: args.initramfs, command_line }, None)
    };
    let machine = Machine {
        qemu: args.qemu,
        memory: args.memory,
        cpus: args.cpus,
        accel: args.accel,
        nic: args.nic,
        forwards: args.forward,
        serial: if args.serial == Path::new("stdio") { Serial::Stdio } else { Serial::File(args.serial) },
        reboots: args.reboot,
        ..Machine::new(start)
    };
    if args.dry_run {
        return result(shell_line(&machine.command()));
    }
    let reboots = machine.reboots;
    let folder =
        tempfile::Builder::new().prefix("rootbeam-boot-").tempdir().context("cannot make a temporary folder")?;
    let (serial, console) = match machine.serial {
        Serial::File(path) => (Serial::File(path.clone()), path),
        _ => {
            term.note("the machine's console follows; Ctrl-A X ends the machine");
            let log = folder.path().join("console");
            (Serial::Logged(log.clone()), log)
        }
    };
    let command = Machine { serial, ..machine }.command();
    let status = run_qemu(&command, args.timeout.map(Duration::from_secs));
    drop(server);
    let status = status?;
    if !status.success() {
        bail!("QEMU failed ({status}); its message stands above");
    }
    match outcome::failure(&said(&console), reboots) {
        Some(diagnosis) => bail!("the boot failed, by the machine's own words: {diagnosis}"),
        None => Ok(()),
    }
}

/// What a console left in its file; nothing where it is no file, but a terminal or a pipe that others read.
fn said(console: &Path) -> Vec<u8> {
    match console.is_file() {
        true => std::fs::read(console).unwrap_or_default(),
        false => Vec::new(),
    }
}

/// The kernel's command line.
fn command_line(image: &str, append: &str) -> String {
    let words = format!("console=ttyS0,115200 rootbeam.image={image} {append}");
    words.trim_end().to_owned()
}

/// The URL by which the guest reaches the image, and the server behind it where it is a file.
fn image_url(image: &str, log: Log) -> Result<(String, Option<Server>)> {
    if image.starts_with("http://") || image.starts_with("https://") {
        return Ok((image.to_owned(), None));
    }
    let path = Path::new(image);
    let Some(name) = path.file_name().filter(|_| path.is_file()) else {
        bail!("there is no image {image}: make one with `rootbeam image build`, or give an http or https URL");
    };
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let server = Server::start(folder, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), log)?;
    let url = format!("http://{HOST}:{}{}", server.address().port(), url_path(Path::new(name)));
    Ok((url, Some(server)))
}

/// QEMU's complaint about a missing network boot program tells no remedy.
fn require_rom(nic: Nic, term: &Term) {
    let rom = nic.rom();
    let folders = ["/usr/share/qemu", "/usr/lib/ipxe/qemu", "/usr/local/share/qemu"];
    if !folders.iter().any(|folder| Path::new(folder).join(rom).exists()) {
        term.warn(format_args!("{rom} is in none of {}: if QEMU misses it, install ipxe-qemu", folders.join(" ")));
    }
}

/// Runs QEMU to its end, or to `timeout`.
fn run_qemu(command: &[OsString], timeout: Option<Duration>) -> Result<ExitStatus> {
    let Some((program, arguments)) = command.split_first() else { bail!("no QEMU command") };
    let mut qemu = Command::new(program);
    qemu.args(arguments);
    let child = dies_with_us(&mut qemu, Signal::TERM).spawn().with_context(|| {
        format!("cannot start {}: install qemu-system-x86, or name the program by --qemu", program.display())
    })?;
    wait(child, timeout)
}

fn wait(mut child: Child, timeout: Option<Duration>) -> Result<ExitStatus> {
    let Some(timeout) = timeout else { return Ok(child.wait()?) };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("QEMU has no process number")?;
    let (ended, end) = channel();
    let waiter = std::thread::spawn(move || {
        // Left unreaped, so that the number stays QEMU's for as long as signals may be sent to it.
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        // Nobody listens any more only where the caller has gone.
        let _ = ended.send(());
    });
    let in_time = end.recv_timeout(timeout).is_ok();
    if !in_time {
        // On SIGTERM it restores the terminal.
        kill_process(pid, Signal::TERM)?;
        if end.recv_timeout(Duration::from_secs(5)).is_err() {
            kill_process(pid, Signal::KILL)?;
        }
    }
    let _ = waiter.join();
    let status = child.wait()?;
    if !in_time {
        bail!("the machine was still running after {} s and was ended", timeout.as_secs());
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_qemu_does() {
        assert_eq!(memory("1G"), Ok(1024));
        assert_eq!(memory("192m"), Ok(192));
        assert_eq!(memory("256"), Ok(256));
        for bad in ["", "0", "G", "1T", "-1", "99999999999999999999"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_names_console_and_image() {
        assert_eq!(command_line("http://a/b", ""), "console=ttyS0,115200 rootbeam.image=http://a/b");
        assert_eq!(command_line("http://a/b", "quiet"), "console=ttyS0,115200 rootbeam.image=http://a/b quiet");
    }

    fn sleeper(seconds: &str) -> Vec<OsString> {
        ["sleep", seconds].map(OsString::from).into()
    }

    #[test]
    fn a_machine_that_runs_too_long_is_ended() {
        let error = run_qemu(&sleeper("600"), Some(Duration::from_millis(50))).unwrap_err();
        assert!(error.to_string().contains("was ended"), "{error}");
        assert!(run_qemu(&sleeper("0"), Some(Duration::from_secs(60))).unwrap().success());
        assert!(run_qemu(&sleeper("0"), None).unwrap().success());
    }

    #[test]
    fn a_missing_qemu_is_named_with_its_package() {
        let error = run_qemu(&["/nonexistent/qemu".into()], None).unwrap_err();
        assert!(format!("{error:#}").contains("install qemu-system-x86"), "{error:#}");
    }
}
