//! What a worker that outlives the hand-over can do to the machine once it is in a stranger's hands: its own sandbox, by
//! the function that the workers call, around a process that tries.

mod attempts;
#[path = "../common/needs.rs"]
mod needs;

use rootbeam_init::sys::outlive;
use rootbeam_init::sys::sandbox::{self, Privileges, Tenure};
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};

/// What tells a process of this program what it is; none for the one that runs the claims.
const PART: &str = "ROOTBEAM_SANDBOX_PART";
/// Who is to be attacked.
const BYSTANDER: &str = "bystander";

const PARTS: [(&str, Privileges); 4] = [
    ("net", Privileges::Network),
    ("store", Privileges::Nothing),
    ("fetch", Privileges::Client),
    ("keeper", Privileges::Keeper),
];

fn main() -> ExitCode {
    match std::env::var(PART).as_deref() {
        Ok(BYSTANDER) => stand_by(),
        Ok(part) => intrude(part),
        Err(_) => claims(),
    }
}

fn claims() -> ExitCode {
    let trials = PARTS.map(|(part, _)| {
        needs::test(&format!("{part}_cannot_regain_what_it_gave_up"), needs::root, move || regains_nothing(part))
    });
    needs::run(trials.into())
}

fn start(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(PART, part).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn regains_nothing(part: &str) {
    let mut bystander = start(BYSTANDER).spawn().unwrap();
    let intruder = start(part).arg(bystander.id().to_string()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!((text(&intruder.stdout), text(&intruder.stderr)), (String::new(), String::new()), "{part}");
    assert_eq!(intruder.status.code(), Some(0), "{part}: {}", intruder.status);
    unharmed(&mut bystander);
}

/// It still runs, and ends as it should when it is let go.
fn unharmed(bystander: &mut Child) {
    drop(bystander.stdin.take());
    let status = bystander.wait().unwrap();
    let mut said = String::new();
    bystander.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(0), "as before"), "{status}");
}

/// A process of user 0, as the booted system is full of.
fn stand_by() -> ExitCode {
    let before = attempts::own_limits();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    print!("{}", if attempts::own_limits() == before { "as before" } else { "its limits were changed" });
    ExitCode::SUCCESS
}

/// Enters the sandbox and tries; what it gets is told.
fn intrude(part: &str) -> ExitCode {
    let (_, keep) = PARTS.into_iter().find(|(name, _)| *name == part).unwrap();
    let bystander = std::env::args().nth(1).unwrap().parse().unwrap();
    let files = match keep {
        Privileges::Client | Privileges::Keeper => outlive::gather("etc/hosts"),
        Privileges::Network | Privileges::Nothing => Vec::new(),
    };
    let names: Vec<_> = files.iter().map(|(path, _)| path.clone()).collect();
    let means = attempts::Means::gather(bystander);
    sandbox::enter(keep, &Tenure::Beyond(files)).unwrap();
    let got = attempts::all(keep, &means, &names);
    got.iter().for_each(|line| println!("{line}"));
    ExitCode::from(u8::from(!got.is_empty()))
}
