//! The initramfs archive: newc, module closure, assembly, inspection.
