//! The command line, and how a result becomes an exit code.

use crate::{boot, check, image, inspect, keygen, pack, report, serve, sign, term::Term, trace};
use clap::{CommandFactory, Parser, Subcommand};
use std::fmt;
use std::process::ExitCode;

/// Everything went well.
pub const OK: u8 = 0;
/// The command failed.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// A verification found bytes that are not the ones promised, or a check what would not boot.
pub const MISMATCH: u8 = 3;
/// A check found nothing worse than a warning.
pub const WARNED: u8 = 4;

const AFTER_HELP: &str = "\
From a tree to a machine that runs in RAM:
  rootbeam image build /srv/web-root -o web.squashfs    the root filesystem, from a folder or a tar
  rootbeam image manifest web.squashfs                  what a boot verifies it by
  rootbeam keygen web                                   once: web.key and web.pub, for machines that believe only you
  rootbeam sign web.squashfs.manifest -s web.key        then: `rootbeam pack --key web.pub` boots nothing else
  rootbeam pack --modules /lib/modules/$(uname -r) -o initramfs.zst    what a kernel boots it with
  rootbeam serve .                                      the folder over HTTP, with ranges
  rootbeam check --initramfs initramfs.zst --ram 1G rootbeam.image=http://SERVER/web.squashfs    would it boot?
  rootbeam boot --kernel vmlinuz --initramfs initramfs.zst --image web.squashfs
                                                        tries it in a QEMU machine

Each subcommand has its own --help with examples.

Exit codes:
  0  done
  1  failed; the message names the cause and what to do
  2  wrong command line
  3  a verification found a mismatch, a check found what would not boot
  4  a check found nothing worse than a warning

Colours appear on terminals only, and never where NO_COLOR is set.";

/// Packs, prepares, serves and tries machines that boot into RAM.
#[derive(Debug, Parser)]
#[command(name = "rootbeam", version, after_help = AFTER_HELP, arg_required_else_help = false)]
pub struct Cli {
    /// Say no more than the result: no progress, no remarks
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build, describe and verify root images
    #[command(subcommand)]
    Image(image::Command),
    /// Pack the initramfs of a kernel
    Pack(pack::Args),
    /// Show what an initramfs holds
    Inspect(inspect::Args),
    /// Make a key pair to sign manifests with
    Keygen(keygen::Args),
    /// Sign a manifest
    Sign(sign::Args),
    /// Say whether a machine would boot, before it does
    Check(check::Args),
    /// Serve a folder over HTTP to machines that boot
    Serve(serve::Args),
    /// Run a QEMU machine from a kernel, an initramfs and an image
    Boot(boot::Args),
    /// Make an image's boot order from what streaming machines read first
    Trace(trace::Args),
    /// Show what a boot did, from its report.json
    Report(report::Args),
}

/// Bytes are not the ones that were promised: the error that ends with exit code [`MISMATCH`].
#[derive(Debug)]
pub struct Mismatch(pub String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

/// A check that found something and has said it: the error that ends with this exit code and prints nothing more.
#[derive(Debug)]
pub struct Judged(pub u8);

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the check ended with code {}", self.0)
    }
}

impl std::error::Error for Judged {}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Wrong arguments end here with exit code 2, --help and --version with 0.
    let cli = Cli::parse();
    let term = Term::detect(cli.quiet);
    let Some(command) = cli.command else {
        return match Cli::command().print_help() {
            Ok(()) => ExitCode::from(OK),
            Err(_) => ExitCode::from(FAILED),
        };
    };
    match run(command, &term) {
        Ok(()) => ExitCode::from(OK),
        Err(error) => {
            if let Some(Judged(code)) = error.downcast_ref() {
                return ExitCode::from(*code);
            }
            term.error(&error);
            ExitCode::from(if error.downcast_ref::<Mismatch>().is_some() { MISMATCH } else { FAILED })
        }
    }
}

fn run(command: Command, term: &Term) -> anyhow::Result<()> {
    match command {
        Command::Image(command) => image::run(command, term),
        Command::Pack(args) => pack::run(args, term),
        Command::Inspect(args) => inspect::run(args),
        Command::Keygen(args) => keygen::run(&args, term),
        Command::Sign(args) => sign::run(&args, term),
        Command::Check(args) => check::run(&args, term),
        Command::Serve(args) => serve::run(args, term),
        Command::Boot(args) => boot::run(args, term),
        Command::Trace(args) => trace::run(&args, term),
        Command::Report(args) => report::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_well_formed_command_line() {
        Cli::command().debug_assert();
    }
}
