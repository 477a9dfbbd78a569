//! The public keys packed with the archive.

use crate::contract;
use crate::failure::{Failure, Step};
use std::path::Path;

/// The key of a minisign public key file: its last line that is not a comment.
pub fn of_file(file: &str) -> Option<&str> {
    let mut lines =
        file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("untrusted comment:"));
    lines.next_back()
}

/// The keys below `root`, in the order of their names. A key that cannot be read fails the boot: with one packed,
/// nothing unsigned may be mounted.
pub fn packed(root: &Path) -> Result<Vec<String>, Failure> {
    let folder = root.join(contract::KEYS);
    let unreadable = |e: String| {
        let remedy = "pack the initramfs again with `rootbeam pack --key FILE`";
        Failure::new(Step::Manifest, format!("/{}", contract::KEYS), e, remedy)
    };
    let mut files = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(|e| unreadable(e.to_string()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e.to_string())),
    };
    files.sort_by_key(std::fs::DirEntry::file_name);
    files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file.path()).map_err(|e| unreadable(e.to_string()))?;
            of_file(&text).map(str::to_owned).ok_or_else(|| unreadable("a key file holds no key".to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_order_and_an_empty_one_fails() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(packed(root.path()), Ok(vec![]));
        let folder = root.path().join(contract::KEYS);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("b.pub"), "untrusted comment: minisign public key\nRWQb\n").unwrap();
        std::fs::write(folder.join("a.pub"), "RWQa").unwrap();
        assert_eq!(packed(root.path()), Ok(vec!["RWQa".into(), "RWQb".into()]));
        std::fs::write(folder.join("c.pub"), "untrusted comment: nothing\n").unwrap();
        assert!(packed(root.path()).is_err());
    }
}
