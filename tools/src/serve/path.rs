//! From the path of a request to a file below the served folder, and to nothing else.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The path of a request, relative to the served folder; `None` where it names a dot file, climbs or is not one.
pub fn decode(path: &str) -> Option<PathBuf> {
    let mut decoded = PathBuf::new();
    for part in path.strip_prefix('/')?.split('/').filter(|part| !part.is_empty()) {
        let name = percent_decode(part)?;
        // Dot files, `.` and `..` alike. A decoded slash would be a folder that was not checked.
        if name.first() == Some(&b'.') || name.contains(&b'/') || name.contains(&0) {
            return None;
        }
        decoded.push(OsString::from_vec(name));
    }
    Some(decoded)
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        decoded.push((digit()? << 4 | digit()?) as u8);
    }
    Some(decoded)
}

/// `name` as a part of a URL.
pub fn encode(name: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte);
    name.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The served folder, held open: it stays the same one whatever happens to its name.
pub struct Root(OwnedFd);

impl Root {
    /// Opens the folder.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(folder, flags, Mode::empty())?))
    }

    /// Opens what is at `path` in the folder. Symbolic links are followed within it: the kernel refuses whatever
    /// would leave it (EXDEV), also where a link is changed meanwhile.
    pub fn file(&self, path: &Path) -> std::io::Result<File> {
        let path = if path == Path::new("") { Path::new(".") } else { path };
        // Non-blocking, lest a named pipe waits for a writer; it means nothing to regular files.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), beneath) {
                Ok(file) => return Ok(file.into()),
                // The kernel could not tell whether a rename meanwhile led out of the folder.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_to_names_below_the_folder_only() {
        let path = |text| decode(text).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(path("/").as_deref(), Some(""));
        assert_eq!(path("/a//b%20c/").as_deref(), Some("a/b c"));
        assert_eq!(path("/%61%2B").as_deref(), Some("a+"));
        for bad in [
            "",
            "a",
            "/..",
            "/a/../b",
            "/%2e%2e/b",
            "/%2E./b",
            "/.git/config",
            "/a%2f..%2fb",
            "/a%00",
            "/%",
            "/%4",
            "/%zz",
        ] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_survive_a_url() {
        let name = "web é %#?.squashfs".as_bytes();
        assert_eq!(decode(&format!("/{}", encode(name))).unwrap(), Path::new("web é %#?.squashfs"));
    }

    #[test]
    fn links_out_of_the_folder_are_refused() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("served");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(outer.path().join("secret"), "s").unwrap();
        std::fs::write(inner.join("v1"), "1").unwrap();
        std::os::unix::fs::symlink("../secret", inner.join("out")).unwrap();
        std::os::unix::fs::symlink("v1", inner.join("latest")).unwrap();
        let root = Root::open(&inner).unwrap();
        assert!(root.file(Path::new("latest")).is_ok());
        assert_eq!(root.file(Path::new("out")).unwrap_err().raw_os_error(), Some(Errno::XDEV.raw_os_error()));
        assert!(root.file(Path::new("")).unwrap().metadata().unwrap().is_dir());
    }
}
