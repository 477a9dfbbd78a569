//! Files that appear whole or not at all: written beside their place and renamed. A device or a pipe stays what it is:
//! it is given the bytes when they are whole.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that is being written beside its place. Dropped before [`Output::publish`], it leaves nothing.
pub struct Output {
    file: NamedTempFile,
    place: PathBuf,
    /// Whether what is at the place is given the bytes, and not replaced.
    through: bool,
}

impl Output {
    /// Begins a file that will be at `place`.
    pub fn beside(place: &Path) -> Result<Self> {
        Self::begin(place, |place| Self::called(place, ".rootbeam-"))
    }

    /// The same for a large file that takes long, and removes those of processes that were killed meanwhile.
    pub fn swept(place: &Path) -> Result<Self> {
        Self::begin(place, |place| {
            sweep(folder(place));
            loop {
                let mut output = Self::called(place, SWEPT)?;
                let file = output.file();
                // Held until the file is closed. Where there are no locks no file can be locked, and none is removed.
                let swept = flock(&*file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
                // Another one may sweep between the file and its lock.
                if !swept && file.metadata().is_ok_and(|found| found.nlink() > 0) {
                    return Ok(output);
                }
            }
        })
    }

    fn begin(place: &Path, beside: impl Fn(&Path) -> Result<Self>) -> Result<Self> {
        match fs::metadata(place) {
            Ok(found) if found.is_dir() => bail!("{} is a folder: name a file in it", place.display()),
            Ok(found) if !found.is_file() => {
                // The folder of a device is /dev, and no place for a large file.
                let file = NamedTempFile::new().context("cannot make a temporary file: set TMPDIR")?;
                Ok(Self { file, place: place.to_owned(), through: true })
            }
            Ok(_) if is_open_file(place) => {
                bail!("{} is a file that a process has open: give the file's own name", place.display())
            }
            _ => beside(place),
        }
    }

    /// The same, under a name that begins so until it is at its place: by that whoever was killed is cleaned up after.
    pub fn called(place: &Path, prefix: &str) -> Result<Self> {
        let folder = folder(place);
        let file = tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(folder)
            .with_context(|| format!("cannot write in the folder {}", folder.display()))?;
        Ok(Self { file, place: place.to_owned(), through: false })
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Where the bytes are until they are published, for a program that writes by name.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The same at another place of the same folder.
    pub fn publish_as(self, place: &Path) -> Result<()> {
        Self { place: place.to_owned(), ..self }.publish()
    }

    /// Makes the file durable and puts it at its place.
    pub fn publish(self) -> Result<()> {
        let Self { file, place, through } = self;
        if through {
            return give(file.path(), &place).with_context(|| format!("cannot write to {}", place.display()));
        }
        // A temporary file is private; what it becomes is to be served.
        fs::set_permissions(file.path(), Permissions::from_mode(0o644))
            .and_then(|()| file.as_file().sync_all())
            .with_context(|| format!("cannot finish {}", place.display()))?;
        file.persist(&place).map_err(|e| e.error).with_context(|| format!("cannot rename to {}", place.display()))?;
        Ok(())
    }
}

/// What a file is called that is locked for as long as it is written.
const SWEPT: &str = ".rootbeam-build-";

/// Removes the files that nobody writes any more, as far as that is possible.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
        if regular && name.as_encoded_bytes().starts_with(SWEPT.as_bytes()) {
            // For writing, without which NFS gives no exclusive lock.
            let file = File::options().write(true).open(entry.path());
            if file.is_ok_and(|file| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn folder(place: &Path) -> &Path {
    match place.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Whether this is a name in /proc of what a process has open, or a link to one as /dev/stdout is. A file that took its
/// place would take that of the link.
fn is_open_file(place: &Path) -> bool {
    let mut place = place.to_owned();
    // As path resolution of the kernel has it (path_resolution(7)).
    for _ in 0..40 {
        let Ok(folder) = folder(&place).canonicalize() else { return false };
        if folder.starts_with("/proc") {
            return true;
        }
        match fs::read_link(&place) {
            Ok(target) => place = folder.join(target),
            Err(_) => return false,
        }
    }
    false
}

/// Gives what is in the file `from` to what is at `place`.
fn give(from: &Path, place: &Path) -> io::Result<()> {
    let mut place = File::options().write(true).open(place)?;
    io::copy(&mut File::open(from)?, &mut place)?;
    match place.sync_all() {
        // A pipe has nothing to make durable, and says so.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// Writes `bytes` to `place`, whole or not at all.
pub fn write(place: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut output = Output::beside(place)?;
    output.file().write_all(bytes).with_context(|| format!("cannot write {}", place.display()))?;
    output.publish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{FileTypeExt, symlink};

    #[test]
    fn a_pipe_is_given_the_bytes_and_stays_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, link) = (folder.path().join("pipe"), folder.path().join("link"));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        symlink("pipe", &link).unwrap();
        for place in [&pipe, &link] {
            let reader = std::thread::spawn({
                let pipe = pipe.clone();
                move || fs::read(pipe).unwrap()
            });
            write(place, b"bytes").unwrap();
            assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo(), "it was replaced");
            assert_eq!(reader.join().unwrap(), b"bytes");
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn what_a_process_has_open_is_not_replaced_by_its_name_in_proc() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("file"), folder.path().join("stdout"));
        let file = File::create(&path).unwrap();
        symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), &link).unwrap();
        let refusal = write(&link, b"bytes").unwrap_err().to_string();
        assert!(refusal.ends_with("/stdout is a file that a process has open: give the file's own name"), "{refusal}");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_being_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let names = || {
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
            let mut names: Vec<PathBuf> = names.collect();
            names.sort();
            names
        };
        let (left, others) = (folder.path().join(".rootbeam-build-x"), folder.path().join(".rootbeam-publish-x"));
        for place in [&left, &others] {
            fs::write(place, "left").unwrap();
        }
        let first = Output::swept(&folder.path().join("a")).unwrap();
        let second = Output::swept(&folder.path().join("b")).unwrap();
        let mut expected = vec![first.path().to_owned(), second.path().to_owned(), others.clone()];
        expected.sort();
        assert_eq!(names(), expected);
        first.publish().unwrap();
        drop(second);
        assert_eq!(names(), [others, folder.path().join("a")]);
    }

    #[test]
    fn a_regular_file_is_replaced_and_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("file");
        for bytes in [b"one", b"two"] {
            write(&place, bytes).unwrap();
            assert_eq!(fs::read(&place).unwrap(), bytes);
        }
        let refusal = write(folder.path(), b"").unwrap_err().to_string();
        assert!(refusal.ends_with(" is a folder: name a file in it"), "{refusal}");
    }
}
