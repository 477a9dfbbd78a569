//! A part of a file as the body of an answer.

use super::log::Entry;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// What is read and written at once. Large enough that neither the system calls nor the hand-over between threads
/// show at several GB/s; a connection holds two of them.
const BLOCK: u64 = 512 << 10;

/// Bytes of a file. The next block is read, on a thread that may block, while the last one is being sent.
pub struct FileBody {
    file: Arc<File>,
    /// What is still to be read.
    unread: Range<u64>,
    /// Bytes still to be handed on.
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    entry: Entry,
}

impl FileBody {
    /// The bytes `range` of `file`, for the request of `entry`, which is logged when the body ends.
    pub fn new(file: File, range: Range<u64>, entry: Entry) -> Self {
        let left = range.end - range.start;
        Self { file: Arc::new(file), unread: range, left, reading: None, entry }
    }

    fn read_ahead(&mut self) {
        if self.unread.is_empty() {
            return;
        }
        let at = self.unread.start;
        let length = BLOCK.min(self.unread.end - at);
        self.unread.start += length;
        let file = self.file.clone();
        self.reading = Some(tokio::task::spawn_blocking(move || read_at(&file, at, length as usize)));
    }
}

fn read_at(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut block = vec![0; length];
    // A file that shrinks meanwhile ends the connection: the client sees that bytes are missing.
    file.read_exact_at(&mut block, at)?;
    Ok(block.into())
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.reading.is_none() {
            self.read_ahead();
        }
        let Some(reading) = self.reading.as_mut() else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        match read.map_err(io::Error::other).flatten() {
            Ok(block) => {
                self.read_ahead();
                self.left -= block.len() as u64;
                self.entry.sent += block.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(block))))
            }
            Err(error) => {
                self.unread = 0..0;
                self.entry.remark = Some(format!("cannot read the file: {error}"));
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
