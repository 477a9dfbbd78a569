//! What a source answers, asked as a boot asks it: by the client of the boot's fetch worker.

use rootbeam_init::digest::Sha256;
use rootbeam_init::fetch::client::{Client, Request};
use rootbeam_init::fetch::{cause, head};
use rootbeam_init::manifest::{self, Manifest};
use rootbeam_init::messages::{FetchCause, Range};
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
    /// It was not asked for.
    Unasked,
    /// It has more than so many bytes.
    TooLarge(u64),
    /// It could not be had.
    Failed(FetchCause),
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
    /// What the server says of it; none where only a manifest that is not there knows its name.
    pub head: Option<Result<Head, FetchCause>>,
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

impl Answer {
    /// Whether the server says for certain that it has no such image.
    pub fn is_gone(&self) -> bool {
        match (&self.manifest, &self.head) {
            (Document::Failed(manifest), Some(Err(image))) => manifest.is_absence() && image.is_gone(),
            (Document::Failed(manifest), None) => manifest.is_gone(),
            _ => false,
        }
    }
}

/// Asks the source at `url`; `signature` says whether the signature matters.
pub fn ask(client: &Client, url: &str, signature: bool) -> Answer {
    let location = Location::new(url);
    let manifest = document(client, location.manifest(), manifest::MAX_BYTES);
    let parsed = match &manifest {
        Document::Here(bytes) => Manifest::parse(bytes).ok(),
        _ => None,
    };
    let name = parsed.as_ref().map(|manifest| manifest.name.as_str());
    let list = match &parsed {
        Some(parsed) => document(client, location.chunks(name), parsed.list_bytes()),
        None => Document::Unasked,
    };
    let signature = match (signature, &manifest) {
        (true, Document::Here(_)) => document(client, location.signature(), SMALL),
        _ => Document::Unasked,
    };
    let image = location.image(name);
    let named = parsed.is_some() || !location.names_manifest();
    let head = named.then(|| first(client, &image));
    let checksum = match &manifest {
        Document::Failed(cause) if cause.is_absence() && named => checksum(client, &location),
        _ => None,
    };
    Answer { manifest, signature, list, checksum, image, head }
}

fn checksum(client: &Client, location: &Location) -> Option<Sha256> {
    [(location.sha256(), true), (location.sums(), false)].into_iter().find_map(|(url, alone)| {
        match document(client, url, SMALL) {
            Document::Here(text) => locate::checksum(&text, location.file(), alone),
            _ => None,
        }
    })
}

fn document(client: &Client, url: String, limit: u64) -> Document {
    match get(client, url, None, limit + 1) {
        Ok((_, bytes)) if bytes.len() as u64 <= limit => Document::Here(bytes),
        Ok(_) => Document::TooLarge(limit),
        Err(cause) => Document::Failed(cause),
    }
}

/// The first bytes of an image, and what came with them.
pub fn first(client: &Client, url: &str) -> Result<Head, FetchCause> {
    let wanted = superblock::PROBE as u64;
    match get(client, url.to_owned(), Some(Range { start: 0, end: wanted }), wanted) {
        Ok((head, first)) => Ok(Head { size: head.size, ranges: head.range.is_some(), first }),
        // The answer to a range of an empty file.
        Err(FetchCause::Status { status: 416, .. }) => Ok(Head { size: Some(0), ranges: true, first: Vec::new() }),
        Err(cause) => Err(cause),
    }
}

/// Asks for a file or a part of it, and reads at most `limit` bytes.
pub fn get(
    client: &Client,
    url: String,
    range: Option<Range>,
    limit: u64,
) -> Result<(rootbeam_init::messages::Head, Vec<u8>), FetchCause> {
    let response = client.get(&Request { url, range, if_range: None })?;
    let head = head::read(&response, range)?;
    let mut bytes = Vec::new();
    response.take(limit).read_to_end(&mut bytes).map_err(|error| cause::of_body(&error))?;
    Ok((head, bytes))
}
