//! A real init for machines under test: it reports its world to the bed and obeys until it is let go.

use rootbeam_qemu_tests::collect::Inherited;
use rootbeam_qemu_tests::probe::{Answer, PIECE, PORT, Request, SOCKET};
use rootbeam_qemu_tests::reach;
use rootbeam_qemu_tests::world::World;
use rustix::fs::Advice;
use rustix::fs::OFlags;
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// The C library calls this before Rust's runtime starts and changes signals and descriptors.
#[used]
#[unsafe(link_section = ".init_array")]
static FIRST: extern "C" fn() = {
    extern "C" fn first() {
        INHERITED.get_or_init(Inherited::take);
    }
    first
};

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().is_some_and(|word| word == reach::WORD) {
        // Nothing that fails here would be heard; without the answer the one who asked finds fault.
        let _ = serde_json::to_writer(io::stdout(), &reach::look(words));
        return;
    }
    let world = || {
        reap();
        World::collect(INHERITED.get_or_init(Inherited::take))
    };
    println!("probe: here I am");
    let end = serve(world);
    if let Err(error) = &end {
        println!("probe: {error}");
    }
    // Neither returns where the probe is PID 1; elsewhere there is nothing to turn off.
    let error = reboot(end.unwrap_or(RebootCommand::PowerOff));
    println!("probe: cannot turn the machine off: {error:?}");
}

fn serve(world: impl Fn() -> World) -> io::Result<RebootCommand> {
    let first = world();
    let line = open()?;
    let mut out = line.try_clone()?;
    let mut send = |answer: Answer| -> io::Result<()> {
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        out.write_all(&line)
    };
    send(Answer::World(Box::new(first)))?;
    let failed = |error: io::Error| Answer::Error(error.to_string());
    let mut crowd = Crowd::default();
    for request in BufReader::new(line).lines() {
        send(match serde_json::from_str(&request?)? {
            Request::World => Answer::World(Box::new(world())),
            Request::Digest(path) => digest(&path).unwrap_or_else(failed),
            Request::DigestAtRandom(path) => digest_at_random(&path).unwrap_or_else(failed),
            Request::ReadAlong(path, pieces) => {
                std::thread::spawn(move || println!("probe: {}", read_along(&path, &pieces)));
                Answer::ReadsAlong
            }
            Request::Crowd(path, readers) => {
                (0..readers).for_each(|_| crowd.join(path.clone()));
                Answer::ReadsAlong
            }
            Request::CrowdEnds => std::mem::take(&mut crowd).end().unwrap_or_else(failed),
            Request::Text(path) => fs::read_to_string(path).map_or_else(failed, Answer::Text),
            Request::Fill(path, size) => fill(&path, size),
            Request::ShowConnections => reach::show_connections().map_or_else(failed, |()| Answer::Shown),
            Request::Reach(user, paths) => reach::look_as(user, &paths).map_or_else(failed, Answer::Reached),
            Request::Restart => return send(Answer::Ending).map(|()| RebootCommand::Restart),
            Request::PowerOff => return send(Answer::Ending).map(|()| RebootCommand::PowerOff),
        })?;
    }
    Ok(RebootCommand::PowerOff)
}

/// Orphans are a real init's to bury.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}

fn digest(path: &str) -> io::Result<Answer> {
    let (mut file, mut hash, mut size) = (File::open(path)?, Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(digested(size, hash));
        }
        hash.update(buffer.get(..count).unwrap_or_default());
        size += count as u64;
    }
}

fn digest_at_random(path: &str) -> io::Result<Answer> {
    const PIECE: u64 = 16 << 10;
    /// A prime: multiples of it reach every piece of a smaller number of them.
    const STRIDE: u64 = 1_000_003;
    let mut file = File::open(path)?;
    let pieces = file.seek(SeekFrom::End(0))? / PIECE;
    if pieces >= STRIDE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    for advice in [Advice::DontNeed, Advice::Random] {
        rustix::fs::fadvise(&file, 0, None, advice)?;
    }
    let (mut hash, mut buffer) = (Sha256::new(), [0; PIECE as usize]);
    for piece in 0..pieces {
        file.read_exact_at(&mut buffer, piece * STRIDE % pieces * PIECE)?;
        hash.update(buffer);
    }
    Ok(digested(pieces * PIECE, hash))
}

/// Reads until a piece is not what it should be; tells of that.
fn read_along(path: &str, pieces: &[String]) -> String {
    let read = |file: &File, place: u64, size: usize| -> io::Result<String> {
        rustix::fs::fadvise(file, place, NonZeroU64::new(size as u64), Advice::DontNeed)?;
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, place)?;
        Ok(hex(Sha256::digest(&bytes).as_ref()))
    };
    let opened = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)).map(|size| (file, size)));
    let (file, size) = match opened {
        Ok(opened) => opened,
        Err(error) => return format!("{path}: {error}"),
    };
    loop {
        let piece = fastrand::usize(..pieces.len());
        let place = (piece * PIECE) as u64;
        let length = PIECE.min(usize::try_from(size.saturating_sub(place)).unwrap_or(PIECE));
        match read(&file, place, length) {
            Ok(found) if pieces.get(piece) == Some(&found) => {}
            Ok(_) => return format!("wrong bytes of {path} from {place}"),
            Err(error) => return format!("{path} from {place}: {error}"),
        }
    }
}

/// Places of a disk, and what was read there.
type Places = Vec<(u64, u64)>;

/// Readers of a disk, until they are told to end.
#[derive(Default)]
struct Crowd {
    over: Arc<AtomicBool>,
    readers: Vec<(String, JoinHandle<io::Result<Places>>)>,
}

impl Crowd {
    const PIECE: usize = 8 << 10;

    fn join(&mut self, path: String) {
        let (over, disk) = (Arc::clone(&self.over), path.clone());
        let read = move || {
            let mut file = File::open(disk)?;
            let pages = (file.seek(SeekFrom::End(0))? - Self::PIECE as u64) / 4096;
            let mut read = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let place = fastrand::u64(..pages) * 4096;
                rustix::fs::fadvise(&file, place, NonZeroU64::new(Self::PIECE as u64), Advice::DontNeed)?;
                read.push((place, Self::look(&file, place)?));
            }
            Ok(read)
        };
        self.readers.push((path, std::thread::spawn(read)));
    }

    fn look(file: &File, place: u64) -> io::Result<u64> {
        let (mut bytes, mut hash) = ([0; Self::PIECE], DefaultHasher::new());
        file.read_exact_at(&mut bytes, place)?;
        hash.write(&bytes);
        Ok(hash.finish())
    }

    fn end(self) -> io::Result<Answer> {
        self.over.store(true, Ordering::Relaxed);
        let (mut reads, mut wrong) = (0, 0);
        for (path, reader) in self.readers {
            let file = File::open(path)?;
            for (place, hash) in reader.join().map_err(|_| io::Error::other("a reader panicked"))?? {
                reads += 1;
                wrong += u64::from(Self::look(&file, place)? != hash);
            }
        }
        Ok(Answer::CrowdRead { reads, wrong })
    }
}

fn digested(size: u64, hash: Sha256) -> Answer {
    Answer::Digest { size, sha256: hex(&hash.finalize()) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fill(path: &str, size: u64) -> Answer {
    let mut written = 0;
    let mut write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        let zeros = vec![0; 1 << 16];
        while written < size {
            written += file.write(&zeros)? as u64;
        }
        Ok(())
    };
    let error = write().err().map(|error| error.to_string());
    Answer::Filled(written, error)
}

/// The line to the bed: its abstract socket, or else the second serial port, in raw mode.
fn open() -> io::Result<File> {
    if let Ok(stream) = UnixStream::connect_addr(&SocketAddr::from_abstract_name(SOCKET)?) {
        return Ok(File::from(OwnedFd::from(stream)));
    }
    let port =
        OpenOptions::new().read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed()).open(PORT)?;
    let mut settings = tcgetattr(&port)?;
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Now, &settings)?;
    Ok(port)
}
