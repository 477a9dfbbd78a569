//! Claims about whole machines. Each is a sentence; each asserts the whole state it speaks of.

mod beds;

use rootbeam_qemu_tests::claim;
use std::process::ExitCode;

fn main() -> ExitCode {
    let claims = match claim::matrix() {
        true => vec![beds::rows()],
        false => vec![beds::claims()],
    };
    claim::run(claims.into_iter().flatten().collect())
}
