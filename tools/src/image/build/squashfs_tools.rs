//! Writing squashfs with mksquashfs, which keeps xattrs and hard links and reads a tar without being root.

use super::inventory::Inventory;
use super::tarball::Tarball;
use super::{Compress, Compression};
use crate::child::dies_with_us;
use crate::term::Term;
use anyhow::{Context, Result, bail};
use backhand::FilesystemReader;
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

/// Its name. It reads a tar since 4.5; sqfstar, which is the same program, takes no compression level in Debian 12.
pub const PROGRAM: &str = "mksquashfs";

/// Finds the program in `PATH`.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|file| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// How the program is to be run.
pub struct Job {
    /// The program.
    pub program: PathBuf,
    /// The compressor.
    pub compression: Compression,
    /// The image's date; no file is to be newer.
    pub date: u32,
    /// Leave extended attributes out.
    pub drop_xattrs: bool,
}

impl Job {
    /// Writes the image of the folder `root`.
    pub fn folder(&self, root: &Path, inventory: &Inventory, out: &Path) -> Result<()> {
        let mut command = self.command();
        command.arg(root).arg(out).args(self.options()).stdin(Stdio::null());
        if !inventory.excluded.is_empty() {
            // These are exact paths; only as patterns are they taken from the root of the tree.
            command.args(["-wildcards", "-e"]).args(inventory.excluded.iter().map(|path| literal(path)));
        }
        let child = dies_with_us(&mut command, Signal::KILL)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let output = child.wait_with_output()?;
        self.judge(output.status, &output.stderr)
    }

    /// Writes the image of a tar.
    pub fn tar(&self, tar: &Tarball, inventory: &Inventory, out: &Path, term: &Term) -> Result<()> {
        let mut command = self.command();
        command.arg("-").arg(out).arg("-tar").args(self.options());
        command.args(root_options(inventory)).stdin(Stdio::piped());
        let mut child = dies_with_us(&mut command, Signal::KILL)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let (Some(mut stdin), Some(mut stderr)) = (child.stdin.take(), child.stderr.take()) else {
            bail!("{} has no pipes", self.program.display());
        };
        let reader = thread::spawn(move || {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).map(|_| said)
        });
        let streamed = tar.stream(inventory, &mut stdin);
        drop(stdin);
        let status = child.wait()?;
        let said = reader.join().map_err(|_| anyhow::anyhow!("the thread that reads messages panicked"))??;
        self.judge(status, &said)?;
        check_root(out, inventory)?;
        match streamed {
            // The program stops reading at the two zero blocks that end a tar; padding may follow them.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                term.note("the tar has more after its end, which stays out");
                Ok(())
            }
            other => other.context("cannot read the tar"),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Sets the image's date and makes no file newer than it.
        command.env("SOURCE_DATE_EPOCH", self.date.to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn options(&self) -> Vec<String> {
        let Compression { compress, level } = self.compression;
        let name = match compress {
            Compress::Zstd => "zstd",
            Compress::Gzip => "gzip",
            Compress::Xz => "xz",
        };
        let fixed = ["-noappend", "-no-recovery", "-reproducible", "-exit-on-error", "-no-progress", "-quiet"];
        let mut options: Vec<String> = ["-comp", name].into_iter().chain(fixed).map(str::to_owned).collect();
        if let Some(level) = level {
            options.extend(["-Xcompression-level".to_owned(), level.to_string()]);
        }
        options.push(if self.drop_xattrs { "-no-xattrs" } else { "-xattrs" }.to_owned());
        options
    }

    fn judge(&self, status: ExitStatus, said: &[u8]) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        let name = self.program.display();
        let said = String::from_utf8_lossy(said);
        let said = said.trim();
        if let Some(signal) = status.signal() {
            bail!(
                "{name} was ended by signal {signal} before the image was whole, and said {}: by signal 9 a machine \
                 ends what needs too much memory; any other is a fault of the program, which another version of \
                 squashfs-tools may not have",
                if said.is_empty() { "nothing" } else { said }
            );
        }
        bail!("{name} failed ({status}): {said}")
    }
}

/// A tar's own entry for the root is not taken over by mksquashfs.
fn root_options(inventory: &Inventory) -> Vec<String> {
    let Some(root) = inventory.entries.get(Path::new("")) else { return Vec::new() };
    [
        ("-root-mode", format!("{:o}", root.mode)),
        ("-root-uid", root.uid.to_string()),
        ("-root-gid", root.gid.to_string()),
        ("-root-time", root.mtime.to_string()),
    ]
    .into_iter()
    .flat_map(|(option, value)| [option.to_owned(), value])
    .collect()
}

/// mksquashfs 4.5 ignores `-root-uid` and `-root-gid` for a tar and takes the caller's.
fn check_root(out: &Path, inventory: &Inventory) -> Result<()> {
    let Some(wanted) = inventory.entries.get(Path::new("")) else { return Ok(()) };
    let image = BufReader::new(File::open(out)?);
    let image = FilesystemReader::from_reader(image).context("cannot read the image that mksquashfs wrote")?;
    let found = image.root.root().header;
    if (found.uid, found.gid) != (wanted.uid, wanted.gid) {
        bail!(
            "this mksquashfs gives the root folder of the image to {}:{} instead of {}:{}: \
             run this command as root, under fakeroot, or under `unshare --map-root-user`",
            found.uid,
            found.gid,
            wanted.uid,
            wanted.gid
        );
    }
    Ok(())
}

/// `path` as a pattern that matches itself only.
fn literal(path: &Path) -> OsString {
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'!' | b'+' | b'@' | b'(' | b')' | b'|') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_names_are_no_patterns() {
        assert_eq!(literal(Path::new("a*b/[c]")), OsString::from(r"a\*b/\[c\]"));
    }
}
