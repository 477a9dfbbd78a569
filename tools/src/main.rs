//! The `rootbeam` command: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    rootbeam::cli::main()
}
