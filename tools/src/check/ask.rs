//! What a source answers, asked as a boot asks it: with the packed certificates and no proxy.

use super::super::image::remote::Remote;
use reqwest::Url;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{self, Manifest};
use rootbeam_init::store::locate::{self, Location};
use rootbeam_init::store::superblock;
use std::io::Read;

/// The largest signature and checksum file that is read, in bytes.
const SMALL: u64 = 1 << 20;

/// A file beside the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Its content.
    Here(Vec<u8>),
    /// The server has none: 403, 404 or 410, as a boot reads them.
    Absent,
    /// It could not be had.
    Failed(String),
}

/// What a source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The manifest.
    pub manifest: Document,
    /// Its signature, where one was asked for.
    pub signature: Document,
    /// The chunk list, where there is a manifest that can be read.
    pub list: Document,
    /// The image's hash from a checksum file, where there is no manifest.
    pub checksum: Option<Sha256>,
    /// The URL of the image.
    pub image: String,
    /// What the server says of it.
    pub head: Result<Head, String>,
}

/// An image on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its size in bytes, where the server tells.
    pub size: Option<u64>,
    /// Whether a request for a range was answered by that range.
    pub ranges: bool,
    /// Its first bytes.
    pub first: Vec<u8>,
}

/// Asks the source at `url`; `signature` says whether the signature matters.
pub fn ask(remote: &Remote, url: &str, signature: bool) -> Answer {
    let location = Location::new(url);
    let manifest = document(remote, &location.manifest(), manifest::MAX_BYTES);
    let parsed = match &manifest {
        Document::Here(bytes) => Manifest::parse(bytes).ok(),
        _ => None,
    };
    let name = parsed.as_ref().map(|manifest| manifest.name.as_str());
    let list = match &parsed {
        Some(parsed) => document(remote, &location.chunks(name), parsed.list_bytes()),
        None => Document::Absent,
    };
    let signature = match (signature, &manifest) {
        (true, Document::Here(_)) => document(remote, &location.signature(), SMALL),
        _ => Document::Absent,
    };
    let image = location.image(name);
    let head = match location.names_manifest() && parsed.is_none() {
        // Only the manifest knows the image's name.
        true => Err("its name stands in the manifest alone".to_owned()),
        false => head(remote, &image),
    };
    let checksum = match &manifest {
        Document::Absent => checksum(remote, &location),
        _ => None,
    };
    Answer { manifest, signature, list, checksum, image, head }
}

fn checksum(remote: &Remote, location: &Location) -> Option<Sha256> {
    [(location.sha256(), true), (location.sums(), false)].into_iter().find_map(|(url, alone)| {
        match document(remote, &url, SMALL) {
            Document::Here(text) => locate::checksum(&text, location.file(), alone),
            _ => None,
        }
    })
}

fn document(remote: &Remote, url: &str, limit: u64) -> Document {
    let response = match Url::parse(url).map_err(|e| e.to_string()).and_then(|url| remote.ask(&url, None)) {
        Ok(response) => response,
        Err(error) => return Document::Failed(error),
    };
    match response.status().as_u16() {
        200 => {}
        403 | 404 | 410 => return Document::Absent,
        _ => return Document::Failed(format!("the server answered {}", response.status())),
    }
    let mut bytes = Vec::new();
    match response.take(limit + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 <= limit => Document::Here(bytes),
        Ok(_) => Document::Failed(format!("it has more than the {limit} bytes that are read")),
        Err(error) => Document::Failed(format!("it broke off: {error}")),
    }
}

fn head(remote: &Remote, url: &str) -> Result<Head, String> {
    let url = Url::parse(url).map_err(|e| e.to_string())?;
    let length = |response: &reqwest::blocking::Response| {
        response.headers().get("content-length").and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok())
    };
    let asked = remote.head(&url)?;
    if !asked.status().is_success() {
        return Err(format!("the server answered {}", asked.status()));
    }
    let wanted = superblock::PROBE as u64;
    let part = remote.ask(&url, Some((0, wanted)))?;
    let whole = part.headers().get("content-range").and_then(|range| range.to_str().ok());
    let whole = whole.and_then(|range| range.strip_prefix("bytes 0-")?.split_once('/')?.1.parse::<u64>().ok());
    let ranges = match part.status().as_u16() {
        206 => true,
        // The answer to a range of an empty file.
        416 => return Ok(Head { size: Some(0), ranges: true, first: Vec::new() }),
        200 => false,
        _ => return Err(format!("the server answered {}", part.status())),
    };
    let size = if ranges { whole } else { length(&part) }.or_else(|| length(&asked));
    let mut first = Vec::new();
    part.take(wanted).read_to_end(&mut first).map_err(|error| format!("it broke off: {error}"))?;
    Ok(Head { size, ranges, first })
}
