//! The image before it is complete: a file whose reads wait for their chunks. The kernel asks through FUSE; what is there
//! is answered at once, what is missing is asked of the engine before anything else. When all is there, the loop device
//! that stands on this file is set on the image's own memory, and this file is nobody's any more.

use super::patience::Patience;
use super::trace::Trace;
use crate::boot_order::Subject;
use crate::contract::STREAM_FILE;
use crate::sys::bell::Bell;
use crate::sys::{fuse, loopdev};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request, Session, SessionACL,
};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The file's inode; the directory's is 1.
const FILE: INodeNo = INodeNo(2);
/// Nothing of it ever changes: the kernel may keep what it knows.
const FOR_GOOD: Duration = Duration::from_secs(1 << 30);
/// The most bytes that one read can ask for; the kernel's own limit is 1 MiB (FUSE_MAX_MAX_PAGES).
const MOST: u64 = 1 << 20;

/// Reads that the kernel hands over before one of them is answered: as many as a loop device can have under way (its queue
/// depth, drivers/block/loop.c). A machine of less than 400 MB gets fewer of whoever has no privilege (max_user_bgreq,
/// fs/fuse/inode.c).
const AT_ONCE: u16 = 128;

/// The number of that error.
const ECONNABORTED: i32 = 103;

/// What became of the swap.
#[derive(Debug)]
pub enum End {
    /// The loop device stands on the image's memory, and the file is gone.
    Released,
    /// The kernel did not swap; the file is served on, from memory.
    Refused(io::Error),
    /// The file is gone, and no loop device stands on the image's memory.
    Lost,
}

/// The file being served.
#[derive(Debug)]
pub struct Streaming {
    shared: Arc<Shared>,
    device: Option<OwnedFd>,
    sealed: bool,
    /// After that a read fails.
    eio: Option<Duration>,
    patience: Patience,
}

#[derive(Debug)]
struct Shared {
    image: File,
    /// Bytes, a multiple of a page: the size of the image's memory.
    size: u64,
    chunk_size: u64,
    bell: Bell,
    state: Mutex<State>,
    /// Held by who reads the image's memory.
    reading: Mutex<()>,
    /// Whether the loop device stands on the image's memory; held over the swap, for the file ends before that returns.
    swapped: Mutex<bool>,
}

#[derive(Debug)]
struct State {
    /// A bit a chunk.
    have: Vec<u64>,
    waiting: Vec<Waiting>,
    /// Since when something waits and nothing comes.
    stalled: Option<Instant>,
    /// Chunks that reads wait for and the engine has not heard of.
    wanted: VecDeque<u64>,
    /// What is read first, where that is to be kept; as long as it is, the file is served.
    trace: Option<Trace>,
    /// What came of the swap, until it was told.
    end: Option<End>,
}

/// A read that waits for chunks.
#[derive(Debug)]
struct Waiting {
    offset: u64,
    length: u64,
    since: Instant,
    reply: ReplyData,
}

impl Streaming {
    /// Serves `image`, of which `size` bytes are the image and `have` tells the chunks that are there, through
    /// `connection`, a descriptor of /dev/fuse that was mounted with `allow_other`.
    pub fn start(
        connection: OwnedFd,
        image: File,
        size: u64,
        chunk_size: u64,
        have: impl Fn(u64) -> bool,
        eio: Option<Duration>,
        trace: Option<Trace>,
    ) -> io::Result<Self> {
        let pages = size.checked_next_multiple_of(4096).ok_or(io::ErrorKind::FileTooLarge)?;
        let chunks = size.div_ceil(chunk_size);
        let (have_none, waiting, wanted) = (Vec::new(), Vec::new(), VecDeque::new());
        let mut state = State { have: have_none, waiting, stalled: None, wanted, trace, end: None };
        state.have.resize(usize::try_from(chunks.div_ceil(64)).map_err(io::Error::other)?, 0);
        (0..chunks).filter(|chunk| have(*chunk)).for_each(|chunk| state.add(chunk));
        let shared = Shared {
            image,
            size: pages,
            chunk_size,
            bell: Bell::new()?,
            state: Mutex::new(state),
            reading: Mutex::default(),
            swapped: Mutex::default(),
        };
        let shared = Arc::new(shared);
        let file = StreamFile(Arc::clone(&shared));
        let connection = fuse::ends_first(connection);
        let ended = Arc::clone(&shared);
        let serve = move || {
            // The kernel has sent its greeting when it mounted: this does not wait for anybody.
            let served = Session::from_fd(file, connection, SessionACL::All, Config::default()).and_then(Session::run);
            // ECONNABORTED is how a read of the connection ends whose last file has gone (fs/fuse/dev.c).
            if let Err(error) = served
                && error.raw_os_error() != Some(ECONNABORTED)
            {
                log::warn!("the streamed image is not served any more: {error}");
            }
            ended.ends();
        };
        std::thread::Builder::new().name("stream".to_owned()).spawn(serve)?;
        Ok(Self { shared, device: None, sealed: false, eio, patience: Patience::default() })
    }

    /// Readable when there is something to take up.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    /// A chunk was written: answers the reads that waited for it alone.
    pub fn arrived(&self, chunk: u64) {
        let mut state = self.shared.lock();
        state.add(chunk);
        let (ready, waiting) =
            std::mem::take(&mut state.waiting).into_iter().partition(|read| self.shared.is_there(&state, read));
        state.waiting = waiting;
        state.stalled = (!state.waiting.is_empty()).then(Instant::now);
        drop(state);
        let ready: Vec<Waiting> = ready;
        ready.into_iter().for_each(|read| self.shared.answer(read));
    }

    /// The chunks that reads have begun to wait for since the last call, in that order.
    pub fn wanted(&self) -> VecDeque<u64> {
        self.shared.bell.hush();
        std::mem::take(&mut self.shared.lock().wanted)
    }

    /// When [`Self::patience`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        let state = self.shared.lock();
        let oldest = state.oldest()?;
        [self.patience.due(oldest), self.eio.zip(state.stalled).map(|(eio, since)| since + eio)]
            .into_iter()
            .flatten()
            .min()
    }

    /// From now on a read fails after `eio`, where that is given.
    pub fn be_patient(&mut self, eio: Option<Duration>) {
        self.eio = eio;
    }

    /// Lets reads fail where nothing has come for too long, and says whether a read waits for long, where that changed
    /// or it is another one.
    pub fn patience(&mut self, now: Instant) -> Option<bool> {
        let mut state = self.shared.lock();
        let oldest = state.oldest();
        // What failed is asked for again, page by page: only the first of these reads may take the time.
        let over = self.eio.zip(state.stalled).is_some_and(|(eio, since)| now.saturating_duration_since(since) >= eio);
        let failed = if over { std::mem::take(&mut state.waiting) } else { Vec::new() };
        let changed = self.patience.look(oldest, state.stalled, now);
        drop(state);
        failed.into_iter().for_each(|read| read.reply.error(Errno::EIO));
        changed
    }

    /// What is read first, from the place `from` of that order on, where it is kept.
    pub fn touched(&self, from: u32) -> Option<(Subject, Vec<u32>)> {
        self.shared.lock().trace.as_ref().map(|trace| trace.piece(from))
    }

    /// It is not kept any longer.
    pub fn trace_ends(&mut self) {
        self.shared.lock().trace = None;
        self.swap();
    }

    /// What came of the swap, once.
    pub fn end(&self) -> Option<End> {
        self.shared.lock().end.take()
    }

    /// `device` is the loop device that stands on the file.
    pub fn take_device(&mut self, device: OwnedFd) {
        self.device = Some(device);
        self.swap();
    }

    /// Does something with the image's memory while nobody reads it: the kernel seals nothing that is in use.
    pub fn undisturbed<T>(&self, work: impl FnOnce() -> T) -> T {
        self.shared.undisturbed(work)
    }

    /// The image is complete and sealed.
    pub fn sealed(&mut self) {
        self.sealed = true;
        self.swap();
    }

    /// Lets go as soon as both are there.
    fn swap(&mut self) {
        if !self.sealed || self.shared.lock().trace.is_some() {
            return;
        }
        let Some(device) = self.device.take() else { return };
        let shared = Arc::clone(&self.shared);
        // The ioctl waits until every read that is under way was answered, by the thread that answers.
        let swap = move || shared.swap(|| loopdev::change_backing(&device, &shared.image));
        if let Err(error) = std::thread::Builder::new().name("swap".to_owned()).spawn(swap) {
            self.shared.tell(End::Refused(error));
        }
    }
}

impl State {
    fn add(&mut self, chunk: u64) {
        let word = usize::try_from(chunk / 64).ok().and_then(|index| self.have.get_mut(index));
        if let Some(word) = word {
            *word |= 1 << (chunk % 64);
        }
    }

    /// Since when the read waits that waits longest.
    fn oldest(&self) -> Option<Instant> {
        self.waiting.iter().map(|read| read.since).min()
    }

    fn has(&self, chunk: u64) -> bool {
        let word = usize::try_from(chunk / 64).ok().and_then(|index| self.have.get(index));
        word.is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something while nobody else reads the image's memory.
    fn undisturbed<T>(&self, work: impl FnOnce() -> T) -> T {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Sets the loop device on the image's memory by `change`.
    fn swap(&self, change: impl FnOnce() -> io::Result<()>) {
        let mut swapped = self.swapped.lock().unwrap_or_else(PoisonError::into_inner);
        match change() {
            Ok(()) => *swapped = true,
            Err(error) => self.tell(End::Refused(error)),
        }
    }

    /// The file has ended: a swap lets go of it. Whatever else ends it leaves the loop device on nothing.
    fn ends(&self) {
        let swapped = *self.swapped.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(if swapped { End::Released } else { End::Lost });
    }

    fn tell(&self, end: End) {
        self.lock().end = Some(end);
        self.bell.ring();
    }

    /// The chunks that a read lies in. The rest of the last page belongs to the last chunk.
    fn chunks(&self, read: &Waiting) -> Range<u64> {
        let end = (read.offset + read.length).div_ceil(self.chunk_size);
        read.offset / self.chunk_size..end
    }

    fn is_there(&self, state: &State, read: &Waiting) -> bool {
        self.chunks(read).all(|chunk| state.has(chunk))
    }

    fn read(&self, offset: u64, length: u64, reply: ReplyData) {
        let offset = offset.min(self.size);
        let length = length.min(MOST).min(self.size - offset);
        let read = Waiting { offset, length, since: Instant::now(), reply };
        let mut state = self.lock();
        if let Some(trace) = &mut state.trace {
            trace.touch(self.chunks(&read));
        }
        if self.is_there(&state, &read) {
            drop(state);
            return self.answer(read);
        }
        let missing: Vec<u64> = self.chunks(&read).filter(|chunk| !state.has(*chunk)).collect();
        state.wanted.extend(missing);
        state.stalled.get_or_insert(read.since);
        state.waiting.push(read);
        drop(state);
        self.bell.ring();
    }

    fn answer(&self, read: Waiting) {
        let mut bytes = vec![0; usize::try_from(read.length).unwrap_or(0)];
        let there = self.undisturbed(|| self.image.read_exact_at(&mut bytes, read.offset));
        match there {
            Ok(()) => read.reply.data(&bytes),
            Err(_) => read.reply.error(Errno::EIO),
        }
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let file = inode == FILE;
        let epoch = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: inode,
            size: if file { self.size } else { 0 },
            blocks: if file { self.size / 512 } else { 0 },
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind: if file { FileType::RegularFile } else { FileType::Directory },
            perm: if file { 0o400 } else { 0o500 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// The filesystem of one file.
#[derive(Debug)]
struct StreamFile(Arc<Shared>);

impl Filesystem for StreamFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it, the loop device waits for each read before it asks for the next; a kernel that has it not does so.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        // Reads that wait may not keep those from being answered whose chunks are there.
        let _ = config.set_max_background(AT_ONCE);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == STREAM_FILE {
            reply.entry(&FOR_GOOD, &self.0.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match inode {
            INodeNo::ROOT | FILE => reply.attr(&FOR_GOOD, &self.0.attributes(inode)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match inode {
            // Its pages are cached once, above the loop device; a second copy here would double the image.
            FILE => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            _ => reply.error(Errno::EISDIR),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match inode {
            FILE => self.0.read(offset, size.into(), reply),
            _ => reply.error(Errno::EISDIR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory;
    use std::sync::mpsc;
    use std::thread;

    fn shared() -> Arc<Shared> {
        let state = State {
            have: Vec::new(),
            waiting: Vec::new(),
            stalled: None,
            wanted: VecDeque::new(),
            trace: None,
            end: None,
        };
        Arc::new(Shared {
            image: memory::create("image").unwrap().into(),
            size: 4096,
            chunk_size: 4096,
            bell: Bell::new().unwrap(),
            state: Mutex::new(state),
            reading: Mutex::default(),
            swapped: Mutex::default(),
        })
    }

    #[test]
    fn a_file_that_ends_without_a_swap_is_lost() {
        let shared = shared();
        shared.ends();
        assert!(matches!(shared.lock().end, Some(End::Lost)));
    }

    #[test]
    fn a_file_that_ends_after_the_kernel_refused_the_swap_is_lost() {
        let shared = shared();
        shared.swap(|| Err(io::ErrorKind::InvalidInput.into()));
        assert!(matches!(shared.lock().end.take(), Some(End::Refused(_))));
        shared.ends();
        assert!(matches!(shared.lock().end, Some(End::Lost)));
    }

    #[test]
    fn a_file_that_a_swap_lets_go_of_is_released_though_it_ends_before_the_swap_returns() {
        let shared = shared();
        let (begin, begun) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let swapping = Arc::clone(&shared);
        let swap = thread::spawn(move || {
            swapping.swap(|| {
                begin.send(()).unwrap();
                wait.recv().map_err(io::Error::other)
            });
        });
        begun.recv().unwrap();
        let ending = Arc::clone(&shared);
        let end = thread::spawn(move || ending.ends());
        thread::sleep(Duration::from_millis(50));
        assert!(shared.lock().end.is_none(), "nothing is known yet");
        go.send(()).unwrap();
        swap.join().unwrap();
        end.join().unwrap();
        assert!(matches!(shared.lock().end, Some(End::Released)));
    }
}
