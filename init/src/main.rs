//! The static binary `/init`.

fn main() {}
