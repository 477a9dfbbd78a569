//! A PID 1 that panics, with the hook that `/init` installs, and its children: each is PID 1 of a namespace of its own,
//! where the end of the machine is that of its PID 1, by a signal that tells which end it was (pid_namespaces(7)).

#[path = "common/needs.rs"]
mod needs;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use rootbeam_init::aftermath;
use rootbeam_init::sys::worker;
use rustix::process::WaitOptions;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What tells a process of this program what it is; none for the one that runs the claims.
const PART: &str = "ROOTBEAM_PANICS_PART";
/// Makes the namespaces and starts their PID 1.
const AROUND: &str = "around";
/// The PID 1s.
const INIT: &str = "init";
const POWERLESS: &str = "powerless";
const PARENT: &str = "parent";

/// The exit status of a PID 1 whose child has panicked.
const WENT_ON: i32 = 7;
/// That of a process of this program that has panicked.
const PANICKED: i32 = 101;

fn main() -> ExitCode {
    match std::env::var(PART).as_deref() {
        Ok(AROUND) => around(),
        Ok(INIT) => {
            aftermath::guard();
            fall()
        }
        Ok(POWERLESS) => {
            let mut all = capabilities(None).unwrap();
            all.effective.remove(CapabilitySet::SYS_BOOT);
            set_capabilities(None, all).unwrap();
            aftermath::guard();
            fall()
        }
        Ok(PARENT) => {
            aftermath::guard();
            let child = worker::fork(|| {
                aftermath::guard_child();
                fall()
            });
            let ended = rustix::process::wait(WaitOptions::empty()).unwrap().unwrap().1;
            assert_eq!((child.is_ok(), ended.exit_status()), (true, Some(PANICKED)));
            ExitCode::from(WENT_ON as u8)
        }
        _ => needs::run(needs::tests! {
            needs::root => a_panic_follows_the_failure_policy, a_panic_is_never_the_end_of_pid_1,
                a_childs_panic_is_its_own_end;
        }),
    }
}

const LINE: u32 = line!() + 2;
fn fall() -> ! {
    panic!("it fell")
}

fn diagnosis() -> String {
    format!(
        "rootbeam: FAILED: a bug in rootbeam's init: panicked at {}:{LINE}:5: it fell. Remedy: report it, with this line.",
        file!()
    )
}

/// The namespaces: /dev has no log of the kernel's, so that descriptor 2 is the console, and the command line is the one
/// of the arguments. Tells the number of their PID 1, and how that ended.
fn around() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [part, words] = &arguments[..] else { panic!("{arguments:?}") };
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).unwrap();
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    let line = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(line.path(), words).unwrap();
    mount(Some(line.path()), "/proc/cmdline", nothing, MsFlags::MS_BIND, nothing).unwrap();
    mount(Some("dev"), "/dev", Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
    let mut init = Command::new("/proc/self/exe").env(PART, part).spawn().unwrap();
    println!("{}", init.id());
    println!("{}", init.wait().unwrap().into_raw());
    ExitCode::SUCCESS
}

/// A machine in namespaces.
struct Machine {
    around: Child,
    console: Lines<BufReader<ChildStderr>>,
    about: Lines<BufReader<ChildStdout>>,
    init: i32,
}

impl Machine {
    fn start(part: &str, words: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env(PART, AROUND)
            .args([part, words])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut around = command.spawn().unwrap();
        let console = BufReader::new(around.stderr.take().unwrap()).lines();
        let mut about = BufReader::new(around.stdout.take().unwrap()).lines();
        let Some(init) = about.next() else { panic!("{:?}", console.collect::<Vec<_>>()) };
        let init = init.unwrap().parse().unwrap();
        Self { around, console, about, init }
    }

    /// Waits until it sleeps for good, kills it, and gives what was on its console up to then.
    fn stays(mut self) -> Vec<String> {
        let sleeps = format!("{} ", libc::SYS_clock_nanosleep);
        let deadline = Instant::now() + Duration::from_secs(20);
        let syscall = format!("/proc/{}/syscall", self.init);
        while !std::fs::read_to_string(&syscall).unwrap().starts_with(&sleeps) {
            assert!(Instant::now() < deadline, "it does not sleep");
            std::thread::yield_now();
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.init), Signal::SIGKILL).unwrap();
        let (said, ended) = self.ends();
        assert_eq!(ended.signal(), Some(Signal::SIGKILL as i32), "{said:?}");
        said
    }

    /// What was on its console, and how its PID 1 ended.
    fn ends(&mut self) -> (Vec<String>, ExitStatus) {
        let said = self.console.by_ref().map(Result::unwrap).collect();
        let ended = self.about.next().unwrap().unwrap().parse().unwrap();
        assert!(self.around.wait().unwrap().success());
        (said, ExitStatus::from_raw(ended))
    }
}

fn a_panic_follows_the_failure_policy() {
    for (words, action, signal, least) in [
        ("rootbeam.on-failure=poweroff", "switching the machine off", Signal::SIGINT, 0),
        ("rootbeam.on-failure=halt", "the machine stops here", Signal::SIGINT, 0),
        ("rootbeam.on-failure=reboot:0", "rebooting now", Signal::SIGHUP, 0),
        ("rootbeam.on-failure=reboot:1", "rebooting in 1 s (rootbeam.on-failure= changes that)", Signal::SIGHUP, 1),
        ("panic=1", "rebooting in 1 s (rootbeam.on-failure= changes that)", Signal::SIGHUP, 1),
        ("rootbeam.on-failure=retry panic=-1", "rebooting now", Signal::SIGHUP, 0),
    ] {
        let begun = Instant::now();
        let (said, ended) = Machine::start(INIT, words).ends();
        assert_eq!(said, [diagnosis(), format!("rootbeam: {action}")], "{words}");
        assert_eq!(ended.signal(), Some(signal as i32), "{words}: {ended}");
        assert!(begun.elapsed() >= Duration::from_secs(least), "{words}: {:?}", begun.elapsed());
    }
}

/// While the diagnosis stands to be read, and where the kernel refuses to end the machine.
fn a_panic_is_never_the_end_of_pid_1() {
    let said = Machine::start(INIT, "quiet").stays();
    assert_eq!(said, [diagnosis(), "rootbeam: rebooting in 60 s (rootbeam.on-failure= changes that)".to_owned()]);
    let said = Machine::start(POWERLESS, "rootbeam.on-failure=poweroff").stays();
    let refused = "rootbeam: the kernel refuses to end the machine: Operation not permitted (os error 1); switch it off \
                   by hand";
    assert_eq!(said, [&diagnosis(), "rootbeam: switching the machine off", refused]);
}

fn a_childs_panic_is_its_own_end() {
    let (said, ended) = Machine::start(PARENT, "rootbeam.on-failure=poweroff").ends();
    let told = format!(
        "rootbeam: a bug in a process of rootbeam's init: panicked at {}:{LINE}:5: it fell; report it, with this line",
        file!()
    );
    assert_eq!(said, [told]);
    assert_eq!(ended.code(), Some(WENT_ON), "{ended}");
}
