//! The initramfs archive: newc, module closure, assembly, inspection.

pub mod archive;
pub mod assembly;
pub mod binary;
pub mod closure;
pub mod compress;
pub mod firmware;
pub mod inspect;
pub mod kernel;
pub mod microcode;
pub mod modinfo;
pub mod newc;
pub mod preset;
pub mod tree;
