//! The password of a secret key: asked for on the terminal, or read from a file.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The longest that minisign takes, in bytes.
const LONGEST: u64 = 1024;

/// The options about a password.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// Read the secret key's password from the first line of FILE instead of asking; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub password_file: Option<PathBuf>,
}

/// Where a password comes from.
pub enum Password<'a> {
    /// The first line of a file, or of standard input.
    File(&'a Path),
    /// The terminal of this process.
    Terminal,
}

impl<'a> Password<'a> {
    /// As the options say; without them there must be a terminal, else `hint` says what to do.
    pub fn of(choice: &'a Choice, hint: &str) -> Result<Self> {
        match &choice.password_file {
            Some(file) => Ok(Self::File(file)),
            None if File::open("/dev/tty").is_ok() => Ok(Self::Terminal),
            None => bail!("there is no terminal to ask for the password on: name a --password-file FILE; {hint}"),
        }
    }

    /// The password of a key that is there.
    pub fn known_one(&self) -> Result<String> {
        match self {
            Self::File(file) => first_line(file),
            Self::Terminal => ask("Password of the secret key: "),
        }
    }

    /// The password for a new key, on a terminal asked for twice.
    pub fn new_one(&self) -> Result<String> {
        let password = match self {
            Self::File(file) => first_line(file)?,
            Self::Terminal => {
                let password = ask("Password for the secret key: ")?;
                if password != ask("The same again: ")? {
                    bail!("the two passwords differ: nothing was made");
                }
                password
            }
        };
        if password.is_empty() {
            bail!("the password is empty: --no-password makes a key without one");
        }
        Ok(password)
    }
}

fn ask(prompt: &str) -> Result<String> {
    rpassword::prompt_password(prompt).context("cannot ask for the password")
}

fn first_line(file: &Path) -> Result<String> {
    let name = || format!("cannot read a password from {}", file.display());
    let input: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(file).with_context(name)?),
    };
    let mut line = String::new();
    BufReader::new(input).take(LONGEST + 1).read_line(&mut line).with_context(name)?;
    let password = line.trim_end_matches(['\n', '\r']);
    if password.len() as u64 > LONGEST {
        bail!("the password in {} is longer than {LONGEST} bytes", file.display());
    }
    Ok(password.to_owned())
}
