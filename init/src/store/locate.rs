//! Names of the files beside an image, and checksum files: text in, text out.

use crate::digest::Sha256;
use crate::manifest::{CHUNKS_SUFFIX, SUFFIX};
use crate::settings::source::Source;
use crate::trust::SUFFIX as SIGNATURE_SUFFIX;

/// What is appended to an image's name for its checksum.
const SHA256_SUFFIX: &str = ".sha256";
/// How many sources of a manifest are used at the most.
pub const NAMED: usize = 16;
/// The checksum file of a folder.
const SUMS: &str = "SHA256SUMS";

/// One source: the URLs of an image and of what lies beside it. A query stays behind each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    folder: String,
    file: String,
    query: String,
    names_manifest: bool,
}

impl Location {
    /// Takes a URL apart. A fragment, which is never sent, is dropped.
    pub fn new(url: &str) -> Self {
        let url = url.split('#').next().unwrap_or_default();
        let (path, query) = match url.find('?') {
            Some(at) => url.split_at(at),
            None => (url, ""),
        };
        let authority = path.find("://").map_or(0, |at| at + 3);
        // A URL without a path has its root for a folder.
        let folder = match path.rfind('/').filter(|slash| *slash >= authority) {
            Some(slash) => slash + 1,
            None => path.len(),
        };
        let (folder, file) = path.split_at(folder);
        let slash = if folder.ends_with('/') { "" } else { "/" };
        let names_manifest = file.len() > SUFFIX.len() && file.ends_with(SUFFIX);
        let file = if names_manifest { file.trim_end_matches(SUFFIX) } else { file };
        Self { folder: format!("{folder}{slash}"), file: file.to_owned(), query: query.to_owned(), names_manifest }
    }

    /// Whether the URL is that of a manifest, which alone knows the image's name.
    pub fn names_manifest(&self) -> bool {
        self.names_manifest
    }

    /// The image's file name as the URL has it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The image, by the name in its manifest where the URL names the manifest.
    pub fn image(&self, manifest_name: Option<&str>) -> String {
        self.beside(self.image_name(manifest_name), "")
    }

    /// Its manifest.
    pub fn manifest(&self) -> String {
        self.beside(&self.file, SUFFIX)
    }

    /// The manifest's signature.
    pub fn signature(&self) -> String {
        self.beside(&format!("{}{SUFFIX}", self.file), SIGNATURE_SUFFIX)
    }

    /// Its chunk list.
    pub fn chunks(&self, manifest_name: Option<&str>) -> String {
        self.beside(self.image_name(manifest_name), CHUNKS_SUFFIX)
    }

    /// Its own checksum file.
    pub fn sha256(&self) -> String {
        self.beside(&self.file, SHA256_SUFFIX)
    }

    /// The folder's checksum file.
    pub fn sums(&self) -> String {
        self.beside(SUMS, "")
    }

    fn image_name<'a>(&'a self, manifest_name: Option<&'a str>) -> &'a str {
        manifest_name.filter(|_| self.names_manifest).unwrap_or(&self.file)
    }

    fn beside(&self, file: &str, suffix: &str) -> String {
        format!("{}{file}{suffix}{}", self.folder, self.query)
    }
}

/// The URLs of `image` in the folders that its manifest names, as far as they are used.
pub fn named<'a>(folders: &'a [String], image: &'a str) -> impl Iterator<Item = String> + 'a {
    let urls = folders.iter().take(NAMED).map(move |folder| format!("{}/{image}", folder.trim_end_matches('/')));
    urls.filter(|url| Source::parse(url).is_ok())
}

/// The SHA-256 of `file` from a checksum file: `HASH`, `HASH  FILE`, `HASH *FILE` or `SHA256 (FILE) = HASH`.
/// A bare hash counts only where it is `alone`, in the checksum file of that image.
pub fn checksum(text: &[u8], file: &str, alone: bool) -> Option<Sha256> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("SHA256 (") {
            let (name, hash) = rest.rsplit_once(") = ")?;
            return Sha256::parse(hash).ok().filter(|_| is_same(name, file));
        }
        match line.split_once(char::is_whitespace) {
            Some((hash, name)) => {
                let name = name.trim_start();
                let name = name.strip_prefix('*').unwrap_or(name);
                Sha256::parse(hash).ok().filter(|_| is_same(name, file))
            }
            None => Sha256::parse(line).ok().filter(|_| alone),
        }
    })
}

fn is_same(name: &str, file: &str) -> bool {
    name.strip_prefix("./").unwrap_or(name) == file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_beside_the_image() {
        let location = Location::new("http://host:8080/a/web.squashfs?key=1/2#top");
        assert_eq!(location.image(Some("other")), "http://host:8080/a/web.squashfs?key=1/2");
        assert_eq!(location.manifest(), "http://host:8080/a/web.squashfs.manifest?key=1/2");
        assert_eq!(location.signature(), "http://host:8080/a/web.squashfs.manifest.minisig?key=1/2");
        assert_eq!(location.chunks(None), "http://host:8080/a/web.squashfs.chunks?key=1/2");
        assert_eq!(location.sha256(), "http://host:8080/a/web.squashfs.sha256?key=1/2");
        assert_eq!(location.sums(), "http://host:8080/a/SHA256SUMS?key=1/2");
        assert!(!location.names_manifest());
    }

    #[test]
    fn a_manifest_url_leaves_the_images_name_to_the_manifest() {
        let location = Location::new("https://host/a/latest.manifest");
        assert!(location.names_manifest());
        assert_eq!(location.manifest(), "https://host/a/latest.manifest");
        assert_eq!(location.image(Some("web-7.squashfs")), "https://host/a/web-7.squashfs");
        assert_eq!(location.chunks(Some("web-7.squashfs")), "https://host/a/web-7.squashfs.chunks");
    }

    #[test]
    fn a_url_without_a_path_has_a_root() {
        assert_eq!(Location::new("http://host").sums(), "http://host/SHA256SUMS");
        assert_eq!(Location::new("http://host/").sums(), "http://host/SHA256SUMS");
    }

    #[test]
    fn finds_the_line_of_the_file_in_every_common_form() {
        let (a, b) = (Sha256([0xaa; 32]), Sha256([0xbb; 32]));
        for text in [
            format!("{b}  other\n{a}  web.img\n"),
            format!("{b} *other\r\n{a} *web.img\r\n"),
            format!("{a}  ./web.img\n"),
            format!("SHA256 (other) = {b}\nSHA256 (web.img) = {a}\n"),
        ] {
            assert_eq!(checksum(text.as_bytes(), "web.img", false), Some(a), "{text}");
        }
        assert_eq!(checksum(format!("{a}\n").as_bytes(), "web.img", true), Some(a));
    }

    #[test]
    fn no_other_line_counts() {
        let a = Sha256([0xaa; 32]);
        for text in [format!("{a}  web.img2\n"), format!("{a}\n"), format!("x{a}  web.img\n"), "<html>".into()] {
            assert_eq!(checksum(text.as_bytes(), "web.img", false), None, "{text}");
        }
        assert_eq!(checksum(b"\xff\xfe", "web.img", true), None);
    }
}
