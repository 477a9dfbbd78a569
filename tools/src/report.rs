//! `rootbeam report`: what a boot did, a line a step.

use crate::term;
use anyhow::{Context, Result};
use rootbeam_init::report::Report;
use std::io::Read;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  rootbeam report /run/rootbeam/report.json
  ssh node cat /run/rootbeam/report.json | rootbeam report -";

/// A report is small; more than this is something else.
const LARGEST: u64 = 4 << 20;

/// Arguments of `rootbeam report`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A report.json; `-` is standard input
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
}

/// Runs `rootbeam report`.
pub fn run(args: &Args) -> Result<()> {
    let name = args.file.display();
    let input: Box<dyn Read> = match args.file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(&args.file).with_context(|| format!("cannot open {name}"))?),
    };
    let mut text = String::new();
    input.take(LARGEST).read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
    let report: Report = serde_json::from_str(&text).with_context(|| {
        format!("{name} is no report of a boot: it is /run/rootbeam/report.json in the booted system")
    })?;
    term::result(report.to_string().trim_end())
}
