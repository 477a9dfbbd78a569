//! The static binary `/init`: PID 1, its workers, and the kernel's modprobe, told apart by `argv[0]`.

use rootbeam_init::contract::role;
use rootbeam_init::roles;
use rootbeam_init::streaming::status;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    match arguments.first().and_then(|name| name.to_str()).unwrap_or_default() {
        role::NET => roles::net(),
        role::STORE => roles::store(),
        role::FETCH => roles::fetch(),
        role::KEEPER => roles::keeper(),
        name if name == "rootbeam" || name.ends_with("/rootbeam") => {
            let words: Vec<&str> = arguments.iter().skip(1).filter_map(|word| word.to_str()).collect();
            let (text, code) = status::answer(&words);
            println!("{text}");
            ExitCode::from(code)
        }
        name if name.ends_with("/modprobe") => roles::modprobe(&arguments),
        _ if std::process::id() == 1 => roles::pid_1(arguments.split_off(1.min(arguments.len()))),
        _ => {
            eprintln!("This is the init of an initramfs; `rootbeam pack` puts it there, and only a kernel starts it.");
            ExitCode::FAILURE
        }
    }
}
