//! The only place that names syscall crates; each call beside the kernel rule it follows.

pub mod channel;
pub mod inherited;
pub mod memory;
pub mod sandbox;
