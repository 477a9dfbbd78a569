//! `ns-run SPEC` runs an initramfs as a machine: its `/init` as PID 1 of namespaces of its own. `ns-run keep PROGRAM…`
//! runs a program. Either ends when its standard input does, so nothing outlives the tests.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rootbeam_qemu_tests::keep::KEEP;
use rootbeam_qemu_tests::netns::spec::{Event, Spec, kernel_words};
use rootbeam_qemu_tests::netns::unpack::unpack;
use rootbeam_qemu_tests::outcome::{Outcome, monotonic};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};
use rustix::process::PidfdFlags;
use rustix::thread::{CapabilitySet, LinkNameSpaceType, UnshareFlags};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Loop devices that a machine sees; the kernel makes them as they are asked for, whoever asks.
const LOOPS: u32 = 64;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, program)) if first == KEEP => keep(program),
        Some((spec, [])) => serde_json::from_str(spec).context("not a spec").and_then(|spec| machine(&spec)),
        _ => Err(anyhow::anyhow!("usage: ns-run SPEC | ns-run keep PROGRAM [ARGUMENT…]")),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ns-run: {error:#}");
        ExitCode::FAILURE
    })
}

fn keep(program: &[String]) -> Result<ExitCode> {
    let (name, arguments) = program.split_first().context("no program to keep")?;
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    kill_at_end_of_input(Pid::from_raw(child.id().cast_signed()))?;
    let status = child.wait()?;
    Ok(ExitCode::from(u8::try_from(status.code().or(status.signal()).unwrap_or(1)).unwrap_or(1)))
}

/// Returns once the child has ended; kills it when the standard input ends first. (No thread: where the next child is
/// PID 1 of a namespace, the kernel makes none.)
fn kill_at_end_of_input(child: Pid) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(child.as_raw()).context("not a process id")?;
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the child")?;
    let input = std::io::stdin();
    let mut events = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&input, PollFlags::IN)];
    rustix::event::poll(&mut events, None)?;
    let [ended, _] = events;
    if ended.revents().is_empty() {
        kill(child, Signal::SIGKILL)?;
    }
    Ok(())
}

/// Whatever started the tests may have left descriptors open; a machine inherits none from its kernel.
fn close_at_exec() -> Result<()> {
    // SAFETY: a flag is set on descriptors of this process; those that are not open are none of its business.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context("cannot close descriptors") }
}

/// Ignored signals stay so across exec, and a kernel ignores none: glibc starts programs with its two internal ones (32
/// and 33) ignored, and whatever started the tests may have added others, as nohup does.
fn default_signals() -> Result<()> {
    const FIXED: [libc::c_int; 2] = [libc::SIGKILL, libc::SIGSTOP];
    for signal in (1..=64).filter(|signal| !FIXED.contains(signal)) {
        // The kernel's struct sigaction: handler (0 is the default), flags, restorer, mask.
        let default = [0_usize; 4];
        let nothing = std::ptr::null_mut::<usize>();
        // SAFETY: the kernel reads one struct of this size and writes none; no handler of this process is
        // needed any more, since it execs next.
        let done = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, 8) };
        anyhow::ensure!(done == 0, "cannot reset signal {signal}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

fn machine(spec: &Spec) -> Result<ExitCode> {
    close_at_exec()?;
    let console =
        rustix::fs::open(spec.console.as_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .context("cannot open the console")?;
    let netns = File::open(&spec.netns).context("cannot open the network namespace")?;
    rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the network namespace")?;
    unshare(UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWCGROUP)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("cannot make / private")?;
    build_root(spec)?;
    // The next child is PID 1, so nothing may be started between this and the fork.
    unshare(UnshareFlags::NEWPID)?;
    // SAFETY: this process has a single thread.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => {
            let error = become_init(spec, console).err();
            bail!("cannot start /init: {:#}", error.context("it returned")?)
        }
        ForkResult::Parent { child } => {
            drop(console);
            kill_at_end_of_input(child)?;
            let outcome = match waitpid(child, None).context("cannot wait for /init")? {
                // How the kernel tells the parent of a PID namespace of reboot(2) in it.
                WaitStatus::Signaled(_, Signal::SIGHUP, _) => Outcome::Restarted,
                WaitStatus::Signaled(_, Signal::SIGINT, _) => Outcome::PoweredOff,
                WaitStatus::Signaled(_, signal, _) => Outcome::Killed(signal as i32),
                WaitStatus::Exited(_, code) => Outcome::Exited(code),
                other => bail!("/init ended by {other:?}"),
            };
            say(Event::Ended(outcome))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn unshare(flags: UnshareFlags) -> Result<()> {
    // SAFETY: this process has a single thread, and file descriptors stay shared with nobody.
    unsafe { rustix::thread::unshare_unsafe(flags) }.with_context(|| format!("cannot unshare {flags:?}"))
}

fn say(event: Event) -> Result<()> {
    println!("{}", serde_json::to_string(&event)?);
    Ok(())
}

/// The unpacked archive on a tmpfs, with the nodes of a small machine in /dev.
fn build_root(spec: &Spec) -> Result<()> {
    let Spec { stage, archive, console, .. } = spec;
    mount("rootfs", stage.as_str(), "tmpfs", MountFlags::empty(), c"mode=0755").context("cannot mount a root")?;
    unpack(Path::new(archive), Path::new(stage))?;
    let dev = format!("{stage}/dev");
    fs::create_dir_all(&dev)?;
    fs::create_dir_all(format!("{stage}/proc"))?;
    mount("dev", dev.as_str(), "tmpfs", MountFlags::NOSUID, c"mode=0755").context("cannot mount /dev")?;
    let node = |name: &str, kind, major, minor, mode| {
        let device = rustix::fs::makedev(major, minor);
        mknodat(CWD, format!("{dev}/{name}"), kind, Mode::from_raw_mode(mode), device)
            .with_context(|| format!("cannot make /dev/{name}"))
    };
    node("null", FileType::CharacterDevice, 1, 3, 0o666)?;
    node("fuse", FileType::CharacterDevice, 10, 229, 0o600)?;
    node("loop-control", FileType::CharacterDevice, 10, 237, 0o600)?;
    for number in 0..LOOPS {
        node(&format!("loop{number}"), FileType::BlockDevice, 7, number, 0o600)?;
    }
    // A pty's node works only on its own devpts, so the terminal itself is bound.
    fs::write(format!("{dev}/console"), "")?;
    mount_bind(console.as_str(), format!("{dev}/console")).context("cannot bind the console")
}

/// Makes this process what the kernel makes of PID 1, and starts /init.
fn become_init(spec: &Spec, console: OwnedFd) -> Result<std::convert::Infallible> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    std::env::set_current_dir(&spec.stage)?;
    let hardened = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "proc", "proc", hardened, None).context("cannot mount /proc")?;
    bind_text("cmdline", &format!("{}\n", spec.cmdline))?;
    if let Some(meminfo) = &spec.meminfo {
        bind_text("meminfo", meminfo)?;
    }
    rustix::process::pivot_root(".", ".").context("cannot make it the root")?;
    unmount(".", UnmountFlags::DETACH).context("cannot detach the host's root")?;
    std::env::set_current_dir("/")?;
    rustix::system::sethostname(b"(none)")?;
    // The clock and the modules are the host's.
    rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_TIME)?;
    rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_MODULE)?;
    default_signals()?;
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let (args, env) = kernel_words(&spec.cmdline);
    let mut init = Command::new("/init");
    init.args(args).env_clear().envs(env);
    init.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    say(Event::Started(monotonic()))?;
    Err(init.exec().into())
}

/// Binds a text over a file of /proc; the text's own file is gone at once.
fn bind_text(name: &str, text: &str) -> Result<()> {
    let file = format!("dev/.{name}");
    fs::write(&file, text)?;
    mount_bind(file.as_str(), format!("proc/{name}")).with_context(|| format!("cannot bind over /proc/{name}"))?;
    fs::remove_file(&file).map_err(Into::into)
}
