//! What the `rootbeam` command is made of, a file a subcommand.

pub mod boot;
pub mod check;
pub mod cli;
pub mod image;
pub mod inspect;
pub mod keygen;
pub mod pack;
pub mod report;
pub mod serve;
pub mod sign;
pub mod term;
pub mod trace;

mod child;
mod output;
mod password;
