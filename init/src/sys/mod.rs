//! The only place that names syscall crates; each call beside the kernel rule it follows.

pub mod bell;
pub mod channel;
pub mod console;
pub mod fuse;
pub mod heap;
pub mod inherited;
pub mod loopdev;
pub mod machine;
pub mod memory;
pub mod module;
pub mod mounts;
pub mod names;
pub mod outlive;
pub mod packet;
pub mod sandbox;
pub mod tree;
pub mod uevent;
pub mod worker;
