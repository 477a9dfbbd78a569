//! Store and fetch workers over their real channels, with the test in the place of PID 1.

use rootbeam_init::access::Access;
use rootbeam_init::contract::RING_BYTES;
use rootbeam_init::digest::Sha256;
use rootbeam_init::label::Label;
use rootbeam_init::manifest::{CHUNK_SIZE, FORMAT, LIST_BLOCK, Manifest};
use rootbeam_init::messages::{
    FetchCause, FetchNews, FetchOrder, FetchWarning, ImageFacts, SourceIndex, SourceTally, StoreCause, StoreNews,
    StoreOrder, Tally, Wanted,
};
use rootbeam_init::sys::channel::{Channel, Received, pair, wait};
use rootbeam_init::sys::memory;
use rootbeam_init::trust::Anchors;
use rootbeam_init::{fetch, store};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// No claim here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// As many as the smallest machine that hashes on threads of their own has.
const PROCESSORS: usize = 2;

pub const CHUNK: usize = CHUNK_SIZE as usize;

/// How a fetch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(ImageFacts),
    Absent,
    Failed(StoreCause),
}

/// The two workers of one fetch.
pub struct Bed {
    channel: Channel<StoreOrder, StoreNews>,
    image: File,
    ring: OwnedFd,
    store: Option<JoinHandle<i32>>,
    fetchers: Vec<UnixDatagram>,
    /// Makes what each fetch worker brings along.
    access: Box<dyn Fn() -> Access>,
    pub sizes: Vec<u64>,
    pub troubles: Vec<(SourceIndex, FetchCause)>,
    pub warnings: Vec<FetchWarning>,
    pub unfit: Vec<(SourceIndex, StoreCause)>,
    pub progress: Vec<Tally>,
    pub tally: Tally,
    pub times: Vec<u64>,
    pub answered: bool,
    pub sources: BTreeMap<SourceIndex, SourceTally>,
}

impl Bed {
    pub fn new() -> Self {
        let image = memory::create("image").unwrap();
        let ring = memory::create("ring").unwrap();
        File::from(ring.try_clone().unwrap()).set_len(RING_BYTES as u64).unwrap();
        let (channel, theirs) = pair().unwrap();
        let (image_of_store, ring_of_store) = (image.try_clone().unwrap(), ring.try_clone().unwrap());
        let store =
            thread::spawn(move || store::main(Channel::from_fd(theirs), image_of_store, ring_of_store, PROCESSORS));
        Self {
            channel,
            image: File::from(image),
            ring,
            store: Some(store),
            fetchers: Vec::new(),
            access: Box::new(Access::default),
            sizes: Vec::new(),
            troubles: Vec::new(),
            warnings: Vec::new(),
            unfit: Vec::new(),
            progress: Vec::new(),
            tally: Tally::default(),
            times: Vec::new(),
            answered: false,
            sources: BTreeMap::new(),
        }
    }

    /// With fetch workers that reach servers so.
    pub fn with_access(access: impl Fn() -> Access + 'static) -> Self {
        let mut bed = Self::new();
        bed.access = Box::new(access);
        bed
    }

    pub fn send(&self, order: StoreOrder) {
        self.channel.send(&order).unwrap();
    }

    pub fn send_with(&self, order: &StoreOrder, descriptor: &impl AsFd) {
        self.channel.send_with(order, descriptor.as_fd()).unwrap();
    }

    /// Ends the fetch worker that runs, as a crash would: the store sees its channel closed.
    pub fn crash_fetcher(&mut self) {
        let socket = self.fetchers.pop().expect("a fetch worker runs");
        socket.shutdown(Shutdown::Both).unwrap();
    }

    fn start_fetcher(&mut self) {
        let (ours, theirs) = pair::<FetchNews, FetchOrder>().unwrap();
        let socket = UnixDatagram::from(ours.as_fd().try_clone_to_owned().unwrap());
        let (ring, access) = (self.ring.try_clone().unwrap(), (self.access)());
        thread::spawn(move || fetch::main(ours, ring, access));
        self.fetchers.push(socket);
        self.channel.send_with(&StoreOrder::Fetcher, theirs.as_fd()).unwrap();
    }

    /// The next message of the store; orders that it implies are carried out.
    pub fn news(&mut self) -> StoreNews {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.channel.receive().unwrap() {
                Received::Message(news, _) => {
                    match &news {
                        StoreNews::NeedFetcher => self.start_fetcher(),
                        StoreNews::Size { bytes } => self.sizes.push(*bytes),
                        StoreNews::Trouble { source, cause, .. } => self.troubles.push((*source, cause.clone())),
                        StoreNews::Progress(tally) => self.progress.push(*tally),
                        StoreNews::Source { source, tally } => {
                            self.sources.insert(*source, tally.clone());
                        }
                        StoreNews::Time { seconds } => self.times.push(*seconds),
                        StoreNews::Done { tally, .. } => self.tally = *tally,
                        StoreNews::Warning(warning) => self.warnings.push(*warning),
                        StoreNews::Unfit { source, cause } => self.unfit.push((*source, cause.clone())),
                        StoreNews::Answered => self.answered = true,
                        StoreNews::Absent
                        | StoreNews::Failed(_)
                        | StoreNews::Opened { .. }
                        | StoreNews::ReadWaits
                        | StoreNews::ReadGoesOn
                        | StoreNews::Released
                        | StoreNews::Touched { .. }
                        | StoreNews::NotReleased { .. }
                        | StoreNews::Lost => {}
                    }
                    return news;
                }
                Received::Empty => {
                    assert!(Instant::now() < end, "the store says nothing; so far: {:?}", self.troubles);
                    wait(&[self.channel.as_fd()], Duration::from_secs(1)).unwrap();
                }
                other => panic!("the store ended: {other:?}"),
            }
        }
    }

    /// Admits every size and goes on up to the end.
    pub fn outcome(&mut self) -> Outcome {
        loop {
            match self.news() {
                StoreNews::Size { .. } => self.send(StoreOrder::Admitted),
                StoreNews::Done { facts, .. } => return Outcome::Done(facts),
                StoreNews::Absent => return Outcome::Absent,
                StoreNews::Failed(cause) => return Outcome::Failed(cause),
                _ => {}
            }
        }
    }

    pub fn run(&mut self, wanted: Wanted) -> Outcome {
        self.send(StoreOrder::Start(wanted));
        self.outcome()
    }

    /// Asserts that the memory file holds `bytes`, zeros up to the next page, and is sealed.
    pub fn assert_holds(&self, bytes: &[u8]) {
        assert!(memory::is_sealed(&self.image).unwrap(), "the image is not sealed");
        let length = self.image.metadata().unwrap().len();
        assert_eq!(length, (bytes.len() as u64).next_multiple_of(4096));
        let mut held = vec![0; length as usize];
        self.image.read_exact_at(&mut held, 0).unwrap();
        assert!(held[..bytes.len()] == *bytes, "the image holds other bytes");
        assert!(held[bytes.len()..].iter().all(|byte| *byte == 0), "the last page is not filled with zeros");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.channel.send(&StoreOrder::Finish);
        for socket in &self.fetchers {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let code = self.store.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(code, Some(Ok(0))), "the store ended with {code:?}");
        }
    }
}

/// An image of `size` bytes: a squashfs superblock that fits, then bytes that never repeat by the chunk.
pub fn image(size: usize) -> Vec<u8> {
    let mut state = size as u64 | 1;
    let mut bytes: Vec<u8> = (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect();
    let used = size as u64;
    let mut superblock = Vec::new();
    superblock.extend(b"hsqs");
    superblock.extend([1_u32, 0, 131_072, 0].map(u32::to_le_bytes).concat());
    superblock.extend([6_u16, 17, 0, 1, 4, 0].map(u16::to_le_bytes).concat());
    superblock.extend([0, used, used - 8, u64::MAX, used / 2, used / 2 + 100].map(u64::to_le_bytes).concat());
    superblock.extend([u64::MAX; 2].map(u64::to_le_bytes).concat());
    bytes[..superblock.len()].copy_from_slice(&superblock);
    bytes
}

pub fn chunk_list(image: &[u8]) -> Vec<u8> {
    image.chunks(CHUNK).flat_map(|chunk| Sha256::of(chunk).0).collect()
}

pub fn manifest(image: &[u8]) -> Manifest {
    Manifest {
        format: FORMAT.into(),
        name: "web.img".into(),
        size: image.len() as u64,
        sha256: Sha256::of(image),
        chunk_size: CHUNK_SIZE,
        version: 7,
        date: 1_700_000_000,
        kernel: None,
        chunk_list: chunk_list(image).chunks(LIST_BLOCK as usize).map(Sha256::of).collect(),
        layers: vec![],
        sources: vec![],
        boot_order: vec![],
    }
}

/// An image with its manifest and chunk list, by path.
pub fn published(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([
        ("/web.img".into(), image.to_vec()),
        ("/web.img.manifest".into(), manifest(image).render().into_bytes()),
        ("/web.img.chunks".into(), chunk_list(image)),
    ])
}

pub fn wanted(sources: &[String]) -> Wanted {
    Wanted {
        sources: sources.to_vec(),
        sha256: None,
        manifest: None,
        require_verified: false,
        optional: false,
        streams: false,
        kernel: Label::new("6.1.0-test").unwrap(),
        stall_seconds: 20,
        anchors: Anchors::default(),
    }
}
