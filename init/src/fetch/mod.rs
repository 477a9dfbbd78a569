//! The fetch worker: URLs and ranges in, bytes out.
