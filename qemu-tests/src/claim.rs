//! The frame of a claim: a named test that says what it needs, and is skipped aloud where that is missing.

use crate::places;
use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Completion, Trial};
use std::fmt::Debug;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

/// What a claim needs of the host: an error says what is missing.
pub type Need = fn() -> Result<()>;

/// A claim: its name is a sentence. Where a need is not met it is ignored with the reason, or fails with it if
/// `ROOTBEAM_REQUIRE=all`.
pub fn claim(name: &str, needs: &'static [Need], check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(missing) = needs.iter().find_map(|need| need().err()) {
            return if required() { Err(format!("required, and {missing:#}").into()) } else { skip(&missing) };
        }
        check().map(|()| Completion::Completed).map_err(|error| format!("{error:#}").into())
    })
}

/// An error that shows both sides, unless they are equal.
#[track_caller]
pub fn equal<T: PartialEq + Debug + ?Sized>(found: &T, expected: &T) -> Result<()> {
    let at = std::panic::Location::caller();
    ensure!(found == expected, "{at}: found {found:#?}\nexpected {expected:#?}");
    Ok(())
}

fn skip(missing: &anyhow::Error) -> Result<Completion, libtest_mimic::Failed> {
    Ok(Completion::ignored_with(format!("{missing:#}")))
}

/// Whether a skip counts as a failure.
pub fn required() -> bool {
    std::env::var("ROOTBEAM_REQUIRE").is_ok_and(|what| what == "all")
}

/// Whether the wide cases are asked for instead of the claims: `make matrix`.
pub fn matrix() -> bool {
    std::env::var("ROOTBEAM_MATRIX").is_ok_and(|wanted| wanted == "1")
}

/// A row of the matrix: a claim that is not made again once it held for the same binaries.
pub fn row(name: &str, needs: &'static [Need], check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    let title = name.to_owned();
    Trial::ignorable_test(name, move || {
        let held = held(&title).map_err(|error| format!("{error:#}"))?;
        if held.exists() {
            return Ok(Completion::ignored_with("it held for these binaries"));
        }
        if let Some(missing) = needs.iter().find_map(|need| need().err()) {
            return if required() { Err(format!("required, and {missing:#}").into()) } else { skip(&missing) };
        }
        check().and_then(|()| Ok(File::create(&held)?)).map_err(|error| format!("{error:#}"))?;
        Ok(Completion::Completed)
    })
}

/// The file that tells that a row held: its name is a digest of the row and the binaries it was made with.
fn held(row: &str) -> Result<PathBuf> {
    let mut recipe = row.to_owned();
    for program in [places::shipped_init()?, places::shipped_rootbeam()?, std::env::current_exe()?] {
        recipe += &places::sum(&program)?;
    }
    Ok(places::cache("matrix")?.join(crate::images::digest(recipe.as_bytes())))
}

/// Runs claims, as `cargo test` runs tests, six at a time unless told otherwise: most of them wait, and the beds bound
/// what runs at once themselves.
pub fn run(claims: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(6));
    libtest_mimic::run(&arguments, claims).exit_code()
}
