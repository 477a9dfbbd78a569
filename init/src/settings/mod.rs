//! The command line, typed.
