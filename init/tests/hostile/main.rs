//! A fetch worker in a stranger's hands, on the real store: the process itself, its sandbox included, which serves the
//! image meanwhile. Whatever that worker says and whatever it does to the ring, nobody reads a byte that is not the
//! image's, and an honest successor completes it.

#[allow(dead_code, reason = "the images and what is published of them are used of it")]
#[path = "../transfer/bed.rs"]
mod bed;
#[path = "../common/needs.rs"]
mod needs;
mod worker;

use bed::{CHUNK, image, manifest, published, wanted};
use rootbeam_init::contract::{LANE_BYTES, LANES, RING_BYTES, STREAM_FILE, fd, role};
use rootbeam_init::digest::Sha256;
use rootbeam_init::messages::{StoreNews, StoreOrder, Trust, Wanted};
use rootbeam_init::sys::channel::{self, Channel, Received};
use rootbeam_init::sys::memory::{self, SharedBytes};
use rootbeam_init::sys::worker::{Exit, Program, Worker, start};
use rootbeam_init::sys::{fuse, mounts};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use worker::{FetchWorker, Random, Turn};

/// How many stores are attacked, and by how many workers each, before an honest one comes.
const SEQUENCES: u64 = 16;
const LIVES: usize = 6;
/// How long one of them has.
const LIFE: Duration = Duration::from_millis(300);
/// How long anything may take: a source that was lied about rests for seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most memory of a store of its own beside image and ring.
const MOST: u64 = 48 << 20;

fn main() -> ExitCode {
    needs::run(vec![needs::test("a_fetch_worker_in_a_strangers_hands_changes_no_byte", fuse, attacked)])
}

/// For mounting what the store serves.
fn fuse() -> Option<String> {
    needs::root().or_else(|| (!Path::new("/dev/fuse").exists()).then(|| "it needs /dev/fuse".to_owned()))
}

/// Prints which sequence it is where that fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ROOTBEAM_SEED={} repeats it", self.0);
        }
    }
}

fn attacked() {
    // SAFETY: NEWNS touches no memory and no descriptor table; it is this thread's and its children's.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    mounts::make_private(Path::new("/")).unwrap();
    let asked = std::env::var("ROOTBEAM_SEED").ok().and_then(|seed| seed.parse().ok()).filter(|seed| *seed != 0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let first = asked.unwrap_or(now.as_nanos() as u64 >> 8 | 1);
    let read = AtomicU64::new(0);
    for seed in first..first + if asked.is_some() { 1 } else { SEQUENCES } {
        let told = Told(seed);
        sequence(seed, &read);
        drop(told);
    }
    let read = read.load(Ordering::Relaxed);
    assert!(asked.is_some() || read > SEQUENCES * 100, "only {read} reads: nothing was served while it was attacked");
}

/// The store of one sequence.
struct Store {
    worker: Worker,
    channel: Channel<StoreOrder, StoreNews>,
    memory: File,
    ring: OwnedFd,
    served: tempfile::TempDir,
    connection: Option<OwnedFd>,
}

impl Store {
    fn start() -> Self {
        let memory = memory::create("image").unwrap();
        let ring = memory::create_sized("ring", RING_BYTES).unwrap();
        let (channel, theirs) = channel::pair().unwrap();
        let program = Program::Open(File::open(env!("CARGO_BIN_EXE_init")).unwrap().into());
        let descriptors = [(theirs.as_fd(), fd::CHANNEL), (memory.as_fd(), fd::IMAGE), (ring.as_fd(), fd::RING)];
        let worker = start(&program, role::STORE, &descriptors).unwrap();
        let served = tempfile::tempdir().unwrap();
        let connection = Some(fuse::mount(served.path()).unwrap());
        Self { worker, channel, memory: memory.into(), ring, served, connection }
    }

    /// Bytes of memory that are the store's alone.
    fn own_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.worker.pid().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the store has ended");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// It ends when it is told to, and well.
    fn finish(self) {
        self.channel.send(&StoreOrder::Finish).unwrap();
        assert_eq!(channel::wait(&[self.worker.as_fd()], PATIENCE).unwrap(), [true], "the store does not end");
        assert_eq!(self.worker.ended().unwrap(), Some(Exit::Status(0)));
    }
}

impl Drop for Store {
    /// Whoever touches the mount while nobody answers for it, or to delete its folder, waits for ever.
    fn drop(&mut self) {
        self.worker.kill();
        self.connection = None;
        let _ = mounts::detach(self.served.path());
    }
}

fn sequence(seed: u64, read: &AtomicU64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let image = image(40 * CHUNK + 777);
    let text = manifest(&image).render();
    let store = Store::start();
    let sources: Vec<String> = (0..8).map(|number| format!("http://10.0.0.{number}/web.img")).collect();
    // The operator's word for which image it is: without one the worker could bring a manifest of its own.
    let wanted = Wanted { manifest: Some(Sha256::of(text.as_bytes())), stall_seconds: 1, ..wanted(&sources) };
    store.channel.send(&StoreOrder::Start(wanted)).unwrap();
    let done = AtomicBool::new(false);
    let (store, opened) = std::thread::scope(|scope| {
        let (image, done) = (&image, &done);
        // Readers end by themselves where this thread does not come to its end: the store ends with it.
        let mut store = store;
        let ended = Ended(done);
        let opened = drive(&mut store, &mut random, image, |folder| {
            for number in 0..3 {
                let file = File::open(folder.join(STREAM_FILE)).unwrap();
                scope.spawn(move || reads(&file, image, Random(seed + number + 1), done, read));
            }
        });
        drop(ended);
        (store, opened)
    });
    let held = store.memory.metadata().unwrap().len();
    assert!(memory::is_sealed(&store.memory).unwrap(), "the image is not sealed");
    assert_eq!(held, (image.len() as u64).next_multiple_of(4096));
    let holds_it = |file: &File| {
        let mut bytes = vec![0; held as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..image.len()] == image[..], "it holds another image");
        assert!(bytes[image.len()..].iter().all(|byte| *byte == 0), "its last page is not filled with zeros");
    };
    holds_it(&store.memory);
    // One whose first chunk comes last is whole before it could be served.
    if opened {
        holds_it(
            &File::open(store.served.path().join(STREAM_FILE))
                .unwrap_or_else(|error| panic!("it is not served: {error}; the store: {:?}", store.worker.ended())),
        );
    }
    store.finish();
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Plays PID 1 and the fetch workers up to the image's last byte; whether it was served.
fn drive(store: &mut Store, random: &mut Random, image: &[u8], serve: impl Fn(&Path)) -> bool {
    let files = published(image);
    let end = Instant::now() + PATIENCE;
    let (mut lives, mut fetcher, mut opened) = (0, None::<(FetchWorker, Instant, Option<Noise>)>, false);
    loop {
        assert!(Instant::now() < end, "not complete after {PATIENCE:?}, {lives} workers");
        loop {
            let news = match store.channel.receive().unwrap() {
                Received::Message(news, _) => news,
                Received::Empty => break,
                other => panic!("the store ended: {other:?}, {:?}", store.worker.ended()),
            };
            match news {
                StoreNews::NeedFetcher => {
                    let malice = if lives < LIVES { [20, 60, 200][random.below(3)] } else { 0 };
                    lives += 1;
                    let (theirs, ours) = channel::raw_pair().unwrap();
                    drop(fetcher.take());
                    // The ring is filled by others too, always.
                    let noise = (malice > 0 && random.below(3) == 0).then(|| Noise::make(&store.ring, random.next()));
                    let until = Instant::now() + if malice > 0 { LIFE } else { PATIENCE };
                    fetcher = Some((FetchWorker::new(ours, &store.ring, &files, malice), until, noise));
                    store.channel.send_with(&StoreOrder::Fetcher, theirs.as_fd()).unwrap();
                }
                StoreNews::Size { bytes } => {
                    assert_eq!(bytes, image.len() as u64);
                    store.channel.send(&StoreOrder::Admitted).unwrap();
                }
                StoreNews::Opened { facts } => {
                    let all = (facts.size, facts.sha256, facts.trust);
                    assert_eq!(all, (image.len() as u64, Some(Sha256::of(image)), Trust::Pinned));
                    let connection = store.connection.take().expect("told once");
                    store.channel.send_with(&StoreOrder::Serve { eio_seconds: None }, connection.as_fd()).unwrap();
                    drop(connection);
                    serve(store.served.path());
                    opened = true;
                }
                StoreNews::Failed(_) => store.channel.send(&StoreOrder::Again).unwrap(),
                StoreNews::Done { facts, .. } => {
                    assert_eq!((facts.size, facts.sha256), (image.len() as u64, Some(Sha256::of(image))));
                    return opened;
                }
                StoreNews::Absent => panic!("the image is absent"),
                _ => {}
            }
        }
        assert!(store.own_memory() < MOST, "the store has {} bytes", store.own_memory());
        let over = match &mut fetcher {
            Some((worker, until, _)) => {
                let turn = worker.turn(random);
                worker.idle();
                turn == Turn::Over || Instant::now() > *until
            }
            None => {
                channel::wait(&[store.channel.as_fd()], Duration::from_millis(20)).unwrap();
                false
            }
        };
        if over {
            fetcher = None;
        }
    }
}

/// Reads at random until all is there, and holds every byte against the image.
fn reads(file: &File, image: &[u8], mut random: Random, done: &AtomicBool, read: &AtomicU64) {
    while !done.load(Ordering::Relaxed) {
        let length = 1 + random.below(200_000);
        let at = random.below(image.len() - length);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at as u64).unwrap();
        assert!(bytes == image[at..at + length], "wrong bytes were read at {at}");
        read.fetch_add(1, Ordering::Relaxed);
    }
}

/// Somebody who writes all over the ring, between the store's looking at a byte and its next look, until it is dropped.
struct Noise(std::sync::Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Noise {
    fn make(ring: &OwnedFd, seed: u64) -> Self {
        let ring = SharedBytes::map(ring, 0, LANES * LANE_BYTES).unwrap();
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let until = std::sync::Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut random = Random(seed | 1);
            while !until.load(Ordering::Relaxed) {
                let byte = random.next() as u8;
                // Where a lane begins there is something most of the time.
                let most = 1 << (8 + random.below(13));
                let at = random.below(LANES) * LANE_BYTES + random.below(most);
                assert!(ring.write(at, &[byte]));
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}
