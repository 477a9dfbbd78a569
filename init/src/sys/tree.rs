//! A directory tree reached by a descriptor: looked at from inside a root that is not ours yet, and deleted.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Magic numbers of the file systems that live in memory (statfs(2)).
const RAMFS: u32 = 0x8584_58f6;
const TMPFS: u32 = 0x0102_1994;
/// A directory itself, not what a link leads to.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Depth is bounded so that a deep tree cannot exhaust the stack of PID 1.
const DEPTH: u32 = 64;

/// A directory by descriptor; paths below it are resolved as if it were `/`, so that absolute links and `..` stay
/// inside (openat2(2), RESOLVE_IN_ROOT).
#[derive(Debug)]
pub struct Root(OwnedFd);

/// What a file is, as far as a boot asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// A regular file.
    pub regular: bool,
    /// Permission bits.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// The first bytes, at most 4096.
    pub head: Vec<u8>,
}

impl Root {
    /// A folder that is open already.
    pub fn from_fd(folder: OwnedFd) -> Self {
        Self(folder)
    }

    /// Reads the first `limit` bytes of a regular file; none where it is no such.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((file, _)) = self.open_file(path)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Opens a regular file for reading, and says how large it is; none where it is no such.
    pub fn open_file(&self, path: &Path) -> io::Result<Option<(File, u64)>> {
        // Through O_PATH first: opening a FIFO or a device for reading could block or act.
        let Some(found) = self.resolve(path, OFlags::PATH)? else { return Ok(None) };
        let facts = rustix::fs::fstat(&found)?;
        if !FileType::from_raw_mode(facts.st_mode).is_file() {
            return Ok(None);
        }
        let size = u64::try_from(facts.st_size).unwrap_or(0);
        Ok(self.resolve(path, OFlags::RDONLY)?.map(|file| (file.into(), size)))
    }

    /// The name of what `path` is in the end, links followed.
    pub fn real_name(&self, path: &Path) -> Option<OsString> {
        let found = self.resolve(path, OFlags::PATH).ok()??;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
        path.file_name().map(OsStr::to_owned)
    }

    /// Puts a file with this content in place of the one of that name, at once.
    pub fn replace(&self, name: &Path, content: &[u8]) -> io::Result<()> {
        let new = Path::new("new");
        self.write(new, content, true)?;
        Ok(rustix::fs::renameat(&self.0, new, &self.0, name)?)
    }

    /// Whether there is something of that name.
    pub fn exists(&self, name: &Path) -> bool {
        rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Removes a file.
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Opens `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Looks at the file `path`, links followed inside the root; none where there is none.
    pub fn look(&self, path: &Path) -> io::Result<Option<Look>> {
        // As in `open_file`.
        let Some(found) = self.resolve(path, OFlags::PATH)? else { return Ok(None) };
        let facts = rustix::fs::fstat(&found)?;
        let regular = FileType::from_raw_mode(facts.st_mode).is_file();
        let mut head = Vec::new();
        if regular && let Some(file) = self.resolve(path, OFlags::RDONLY)? {
            File::from(file).take(4096).read_to_end(&mut head)?;
        }
        let size = u64::try_from(facts.st_size).unwrap_or(0);
        Ok(Some(Look { regular, mode: facts.st_mode & 0o7777, size, head }))
    }

    /// Looks at `path` itself, which may be a link (then it is no regular file), without its content.
    pub fn look_at_link(&self, path: &Path) -> io::Result<Option<Look>> {
        let Some(found) = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)? else { return Ok(None) };
        let facts = rustix::fs::fstat(&found)?;
        let regular = FileType::from_raw_mode(facts.st_mode).is_file();
        let size = u64::try_from(facts.st_size).unwrap_or(0);
        Ok(Some(Look { regular, mode: facts.st_mode & 0o7777, size, head: Vec::new() }))
    }

    /// Replaces the content of the file `path`, or makes it with mode 0644 where `create` says so; links are
    /// followed inside the root.
    pub fn write(&self, path: &Path, content: &[u8], create: bool) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | if create { OFlags::CREATE } else { OFlags::empty() };
        let mode = if create { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        let file = rustix::fs::openat2(&self.0, path, flags, mode, ResolveFlags::IN_ROOT)?;
        File::from(file).write_all(content)
    }

    /// Names in the directory `path`, at most 64, in order; none where it is no directory.
    pub fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let Some(directory) = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)? else { return Ok(vec![]) };
        let entries = Dir::new(directory)?.filter_map(Result::ok);
        let named = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = named.filter(|name| name != "." && name != "..").take(64).collect();
        names.sort();
        Ok(names)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        use rustix::io::Errno;
        match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Bytes of memory that everything below this directory on its own device holds: what [`Root::delete_content`] sets
    /// free. Nothing where that is no file system in memory.
    pub fn memory_of_content(&self) -> u64 {
        self.device_in_memory().map_or(0, |device| memory_below(self.0.as_fd(), device, DEPTH))
    }

    /// Deletes everything below this directory that lies on its own device, and returns how many entries went.
    /// Mounts below it are left alone, as is what cannot be deleted; and all of it where that is no file system in memory,
    /// but an initramfs that was unpacked on a disk or a server, for others as well.
    pub fn delete_content(self) -> u64 {
        self.device_in_memory().map_or(0, |device| delete_below(self.0.as_fd(), device, DEPTH))
    }

    /// Its device, where that is memory.
    fn device_in_memory(&self) -> Option<u64> {
        let kind = rustix::fs::fstatfs(&self.0).ok()?;
        let in_memory = matches!(u32::try_from(kind.f_type), Ok(RAMFS | TMPFS));
        rustix::fs::fstat(&self.0).ok().filter(|_| in_memory).map(|facts| facts.st_dev)
    }
}

/// Gives the directory `to` owner and mode of the directory `from`.
pub fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let facts = rustix::fs::stat(from)?;
    let (owner, group) = (rustix::fs::Uid::from_raw(facts.st_uid), rustix::fs::Gid::from_raw(facts.st_gid));
    rustix::fs::chown(to, Some(owner), Some(group))?;
    Ok(rustix::fs::chmod(to, Mode::from_raw_mode(facts.st_mode & 0o7777))?)
}

/// Both count pages in `st_blocks` (simple_getattr and shmem_getattr of the kernel).
fn memory_below(directory: BorrowedFd<'_>, device: u64, depth: u32) -> u64 {
    let Ok(entries) = Dir::read_from(directory) else { return 0 };
    let mut held = 0;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Ok(facts) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if name == c"." || name == c".." || facts.st_dev != device {
            continue;
        }
        held += u64::try_from(facts.st_blocks).unwrap_or(0) * 512;
        if FileType::from_raw_mode(facts.st_mode).is_dir()
            && let (Some(depth), Ok(below)) =
                (depth.checked_sub(1), rustix::fs::openat(directory, name, FOLDER, Mode::empty()))
        {
            held += memory_below(below.as_fd(), device, depth);
        }
    }
    held
}

fn delete_below(directory: BorrowedFd<'_>, device: u64, depth: u32) -> u64 {
    let Ok(entries) = Dir::read_from(directory) else { return 0 };
    let mut deleted = 0;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        deleted += delete_entry(directory, name, device, depth);
    }
    deleted
}

fn delete_entry(directory: BorrowedFd<'_>, name: &CStr, device: u64, depth: u32) -> u64 {
    let Ok(facts) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return 0 };
    if facts.st_dev != device {
        return 0;
    }
    if !FileType::from_raw_mode(facts.st_mode).is_dir() {
        return u64::from(rustix::fs::unlinkat(directory, name, AtFlags::empty()).is_ok());
    }
    let mut deleted = 0;
    if let (Some(depth), Ok(below)) = (depth.checked_sub(1), rustix::fs::openat(directory, name, FOLDER, Mode::empty()))
    {
        deleted = delete_below(below.as_fd(), device, depth);
    }
    deleted + u64::from(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_dots_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("inside"), "yes").unwrap();
        symlink("/inside", dir.path().join("absolute")).unwrap();
        symlink("../../../../inside", dir.path().join("dots")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for path in ["absolute", "/dots", "../inside"] {
            assert_eq!(root.look(Path::new(path)).unwrap().map(|l| l.head), Some(b"yes".to_vec()), "{path}");
        }
        assert_eq!(root.look(Path::new("/etc/passwd")).unwrap(), None);
    }

    #[test]
    fn counts_the_pages_of_files_in_memory_only() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/two-pages"), [1; 4097]).unwrap();
        std::fs::write(dir.path().join("one-page"), [1]).unwrap();
        symlink("/", dir.path().join("root")).unwrap();
        assert_eq!(Root::open(dir.path()).unwrap().memory_of_content(), 3 * 4096);
        assert_eq!(Root::open(Path::new("/proc")).unwrap().memory_of_content(), 0);
    }

    #[test]
    fn deletes_the_tree_but_nothing_behind_links() {
        let kept = tempfile::tempdir().unwrap();
        std::fs::write(kept.path().join("kept"), "").unwrap();
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        std::fs::write(dir.path().join("a/b/f"), "").unwrap();
        symlink(kept.path(), dir.path().join("a/link")).unwrap();
        assert_eq!(Root::open(dir.path()).unwrap().delete_content(), 5);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(kept.path().join("kept").exists());
    }

    #[test]
    fn deletes_nothing_of_a_disk() {
        // A working copy lies on one.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::write(dir.path().join("kept"), "").unwrap();
        assert_eq!(Root::open(dir.path()).unwrap().delete_content(), 0);
        assert!(dir.path().join("kept").exists());
    }
}
