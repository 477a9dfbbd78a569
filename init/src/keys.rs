//! What the archive trusts, read from its files.

use crate::contract;
use crate::failure::{Failure, Step};
use crate::trust::Anchors;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// The keys below `root` in the order of their names, with their threshold and the version floor. What cannot be read
/// fails the boot: with a key packed nothing else may be mounted than what it signed.
pub fn packed(root: &Path) -> Result<Anchors, Failure> {
    let (keys, names) = files(&root.join(contract::KEYS)).map_err(|e| unusable(contract::KEYS, &e.to_string()))?;
    let named: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(keys.iter().map(Vec::as_slice)).collect();
    let (needed, floor) = (number(root, contract::KEY_THRESHOLD)?, number(root, contract::MIN_VERSION)?);
    Anchors::new(&named, needed, floor).map_err(|e| unusable(contract::KEYS, &e.to_string()))
}

/// Contents and names of the files in `folder`, by name; none where there is no folder.
fn files(folder: &Path) -> io::Result<(Vec<Vec<u8>>, Vec<String>)> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let contents = paths.iter().map(std::fs::read).collect::<io::Result<_>>()?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((contents, paths.iter().map(|path| name(path)).collect()))
}

/// The number in the file `path` below `root`; none where there is no file.
fn number<N: FromStr>(root: &Path, path: &str) -> Result<Option<N>, Failure> {
    match std::fs::read_to_string(root.join(path)) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| unusable(path, "it holds no number of its kind")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unusable(path, &e.to_string())),
    }
}

fn unusable(path: &str, cause: &str) -> Failure {
    Failure::new(Step::Manifest, format!("/{path}"), cause, "pack the initramfs again with `rootbeam pack --key FILE`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] = [
        "untrusted comment: minisign public key 4E0B0E404B35103F\n\
         RWQ/EDVLQA4LTn/ucE7kWG1ZWIcEHA8YvRHiQNu9AoFOfYfrgNQEqBA1\n",
        "RWRDExp46dpin49QdHHcAoISkDwQrygB+gZyjeF/9ORzoAuR+7rzq6u1",
    ];

    /// A root with these files in `etc/rootbeam`.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn cause(files: &[(&str, &str)]) -> String {
        packed(root(files).path()).unwrap_err().cause
    }

    #[test]
    fn keys_are_read_in_the_order_of_their_names() {
        let [a, b] = KEYS;
        let root = root(&[
            ("etc/rootbeam/keys/b.pub", b),
            ("etc/rootbeam/keys/a.pub", a),
            (contract::KEY_THRESHOLD, "2\n"),
            (contract::MIN_VERSION, "7\n"),
        ]);
        let expected = Anchors::new(&[("a.pub", a.as_bytes()), ("b.pub", b.as_bytes())], Some(2), Some(7));
        assert_eq!(packed(root.path()).ok(), expected.ok());
    }

    #[test]
    fn an_archive_without_keys_trusts_nobody_in_particular() {
        assert_eq!(packed(root(&[]).path()), Ok(Anchors::new(&[], None, None).unwrap()));
    }

    #[test]
    fn what_cannot_be_read_is_never_taken_for_less() {
        let key = ("etc/rootbeam/keys/a.pub", KEYS[0]);
        assert!(
            cause(&[("etc/rootbeam/keys/c.pub", "untrusted comment: nothing\n")]).contains("c.pub is not a public")
        );
        for number in ["", "many", "-1", "18446744073709551616"] {
            assert_eq!(cause(&[key, (contract::MIN_VERSION, number)]), "it holds no number of its kind");
            assert_eq!(cause(&[key, (contract::KEY_THRESHOLD, number)]), "it holds no number of its kind");
        }
        assert_eq!(
            cause(&[key, (contract::KEY_THRESHOLD, "2")]),
            "the threshold is 2, and must be from 1 to the number of keys, which is 1"
        );
        assert!(cause(&[(contract::MIN_VERSION, "2")]).starts_with("a least version means nothing without a key"));
        assert!(cause(&[key, ("etc/rootbeam/min-version/x", "")]).contains("directory"));
    }
}
