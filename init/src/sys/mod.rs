//! The only place that names syscall crates; each call beside the kernel rule it follows.
