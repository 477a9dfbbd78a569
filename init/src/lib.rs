//! The init of a machine that boots into RAM: PID 1 of an initramfs, its workers, and the definitions
//! (command line, manifest, archive contract) that the host tools share with it.
//!
//! `boot` is the story. Every other room is one step of it or one worker; only `sys` talks to the kernel.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::print_stdout,
        clippy::print_stderr
    )
)]

pub mod access;
pub mod admission;
pub mod aftermath;
pub mod boot;
pub mod boot_order;
pub mod causes;
pub mod clock;
pub mod contract;
pub mod crew;
pub mod digest;
pub mod early;
pub mod facts;
pub mod failure;
pub mod fetch;
pub mod identity;
pub mod image;
pub mod journal;
pub mod keys;
pub mod label;
pub mod layers;
pub mod machine;
pub mod manifest;
pub mod messages;
pub mod modules;
pub mod net;
pub mod network;
pub mod policy;
pub mod progress;
pub mod receive;
pub mod report;
pub mod roles;
pub mod root;
pub mod settings;
pub mod store;
pub mod streaming;
pub mod sys;
pub mod trust;
pub mod turns;
