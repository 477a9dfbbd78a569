//! Claims about whole machines. Each is a sentence; each asserts the whole state it speaks of.

mod beds;
mod boots;
mod errors;
mod fetching;
mod foreign;
mod https;
mod inits;
mod matrix;
mod packing;
mod streaming;
mod tool;

use rootbeam_qemu_tests::claim;
use std::process::ExitCode;

fn main() -> ExitCode {
    match fetching::soak::asked_for() {
        Ok(None) => {}
        Ok(Some(schedules)) => return claim::run(schedules),
        Err(error) => {
            eprintln!("cannot soak: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let claims = match claim::matrix() {
        true => vec![beds::rows(), matrix::rows(), fetching::rows(), packing::rows(), streaming::rows()],
        false => vec![
            beds::claims(),
            boots::claims(),
            inits::claims(),
            errors::claims(),
            fetching::claims(),
            foreign::claims(),
            https::claims(),
            packing::claims(),
            streaming::claims(),
            tool::claims(),
        ],
    };
    claim::run(claims.into_iter().flatten().collect())
}
