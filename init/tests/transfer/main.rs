//! Claims about the two workers that bring an image, each against a server on loopback that misbehaves as told.

mod bed;
mod credentials;
mod good;
mod https;
mod optional;
mod refusals;
mod server;
mod troubles;
