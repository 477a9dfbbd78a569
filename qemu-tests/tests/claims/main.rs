//! Claims about whole machines. Each is a sentence; each asserts the whole state it speaks of.

mod beds;
mod boots;
mod errors;
mod foreign;
mod https;
mod inits;
mod matrix;

use rootbeam_qemu_tests::claim;
use std::process::ExitCode;

fn main() -> ExitCode {
    let claims = match claim::matrix() {
        true => vec![beds::rows(), matrix::rows()],
        false => {
            vec![beds::claims(), boots::claims(), inits::claims(), errors::claims(), foreign::claims(), https::claims()]
        }
    };
    claim::run(claims.into_iter().flatten().collect())
}
