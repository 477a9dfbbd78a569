//! The role `/sbin/modprobe`: the kernel asks for a module by name.

use super::{Modules, Outcome, Policy};
use std::ffi::OsString;
use std::path::Path;

/// The longest name that is answered, in bytes; the kernel's own buffer has 56.
const MAX_NAME: usize = 255;

/// The name in the kernel's call `/sbin/modprobe -q -- NAME`; nothing for any other call. A name has no slash, no
/// white space and does not begin with a dash; it is compared, never expanded.
pub fn name_in(argv: &[OsString]) -> Option<&str> {
    let [_, quiet, end, name] = argv else { return None };
    let name = name.to_str()?;
    let plain = name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    let fits = (1..=MAX_NAME).contains(&name.len()) && plain && !name.starts_with('-');
    (quiet == "-q" && end == "--" && fits).then_some(name)
}

/// Answers a call with these arguments: the exit code, 0 if the module is there now, else 1. `release` is the
/// running kernel's.
pub fn request(argv: &[OsString], release: &str, policy: Policy) -> u8 {
    let Some(name) = name_in(argv) else { return 1 };
    match Modules::open(Path::new("/"), release, policy).and_then(|mut m| m.load(name)) {
        Ok(Outcome::Loaded(_) | Outcome::Present) => 0,
        Ok(Outcome::Unknown) | Err(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(words: &[&str]) -> Option<String> {
        let argv: Vec<OsString> = words.iter().map(OsString::from).collect();
        name_in(&argv).map(str::to_owned)
    }

    #[test]
    fn answers_the_kernels_call_only() {
        assert_eq!(name(&["/sbin/modprobe", "-q", "--", "fs-squashfs"]).as_deref(), Some("fs-squashfs"));
        for other in [
            &["modprobe", "e1000"][..],
            &["modprobe", "-q", "--"],
            &["modprobe", "-r", "--", "e1000"],
            &["modprobe", "-q", "--", "e1000", "debug=1"],
            &["modprobe", "-q", "--", "-C/tmp"],
            &["modprobe", "-q", "--", "../../x"],
            &["modprobe", "-q", "--", ""],
            &["modprobe", "-q", "--", "a b"],
        ] {
            assert_eq!(name(other), None, "{other:?}");
        }
        assert_eq!(name(&["modprobe", "-q", "--", &"x".repeat(256)]), None);
    }
}
