//! The net worker: links and addresses.
