//! What the `rootbeam` command is made of, a file a subcommand.
