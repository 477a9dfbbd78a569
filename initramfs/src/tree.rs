//! The planned archive as a value: what will be at which path.

use crate::newc::{NewEntry, WriteError, Writer, kind};
use std::collections::BTreeMap;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory, mode 0755.
    Directory,
    /// A file with these permission bits.
    File {
        /// Permission bits.
        mode: u32,
        /// Content.
        data: Vec<u8>,
    },
    /// A symbolic link to this target.
    Symlink(String),
    /// A character device.
    Device {
        /// Permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Paths, without a leading slash, and what is there. Directories come before what they hold, because a path sorts
/// before all paths that it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `node` at `path`, with the directories above it. What was there is replaced.
    pub fn put(&mut self, path: &str, node: Node) {
        for (slash, _) in path.match_indices('/') {
            self.0.entry(path[..slash].to_owned()).or_insert(Node::Directory);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Puts a file that all may read.
    pub fn file(&mut self, path: &str, data: impl Into<Vec<u8>>) {
        self.put(path, Node::File { mode: 0o644, data: data.into() });
    }

    /// Puts a file that only root may read.
    pub fn secret(&mut self, path: &str, data: impl Into<Vec<u8>>) {
        self.put(path, Node::File { mode: 0o600, data: data.into() });
    }

    /// Puts a program.
    pub fn program(&mut self, path: &str, data: impl Into<Vec<u8>>) {
        self.put(path, Node::File { mode: 0o755, data: data.into() });
    }

    /// What is at `path`.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    /// All paths and what is there, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The tree as a newc archive; every entry has this modification time, in seconds since 1970.
    pub fn to_newc(&self, mtime: u32) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer::new(mtime);
        for (path, node) in self.iter() {
            let (mode, device, data) = match node {
                Node::Directory => (kind::DIRECTORY | 0o755, (0, 0), &[][..]),
                Node::File { mode, data } => (kind::FILE | mode, (0, 0), data.as_slice()),
                Node::Symlink(target) => (kind::SYMLINK | 0o777, (0, 0), target.as_bytes()),
                Node::Device { mode, major, minor } => (kind::CHARACTER | mode, (*major, *minor), &[][..]),
            };
            writer.entry(NewEntry { path: path.as_bytes(), mode, device, data })?;
        }
        Ok(writer.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_first_and_are_made_where_they_lack() {
        let mut tree = Tree::new();
        tree.file("a/b/c", "x");
        tree.file("a-b", "y");
        tree.put("a", Node::Directory);
        let bytes = tree.to_newc(0).unwrap();
        let (entries, _) = crate::newc::read(&bytes, 0).unwrap();
        let paths: Vec<_> = entries.iter().map(|e| e.path.as_slice()).collect();
        assert_eq!(paths, [b"a".as_slice(), b"a-b", b"a/b", b"a/b/c"]);
    }
}
