//! A small HTTP/1.1 server with ranges and validators, which commits faults on request and remembers what it sent.

use crate::servers::answer::{answer, request};
use crate::servers::fault::{Fault, Rule, Standing, When};
use crate::servers::site::Site;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeMap;
use std::io::{BufReader, PipeReader, PipeWriter};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// Path, with its query.
    pub path: String,
    /// The request's header fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The status answered; 0 if no answer was made.
    pub status: u16,
    /// The part of the contents that was begun to be sent.
    pub range: Range<u64>,
    /// Bytes of body that went out.
    pub sent: u64,
    /// Number of the connection, counted from 0.
    pub connection: usize,
    /// When the request was read, since the server was made.
    pub at: Duration,
}

/// A running server. It ends with this value; open connections are cut.
#[derive(Debug)]
pub struct HttpServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    door: Option<Door>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) site: Site,
    begun: Instant,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Arc<Standing>>,
    counts: BTreeMap<String, usize>,
    sent: BTreeMap<String, u64>,
    log: Vec<Exchange>,
    answers: u64,
    accepted: usize,
    connections: Vec<TcpStream>,
}

impl HttpServer {
    /// Serves `site` on a listener, wherever that was bound.
    pub fn serve(listener: TcpListener, site: Site) -> Result<Self> {
        let address = listener.local_addr().context("a listener without an address")?;
        let shared = Shared { site, begun: Instant::now(), state: Mutex::default(), news: Condvar::new() };
        let mut server = Self { shared: Arc::new(shared), address, door: None };
        server.resume(listener)?;
        Ok(server)
    }

    /// Serves `site` on a free port of this machine's loopback; guests of QEMU reach it as 10.0.2.2.
    pub fn on_loopback(site: Site) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on the loopback")?;
        Self::serve(listener, site)
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// With a fault for the requests of `path`.
    pub fn fault(self, path: &str, when: When, fault: Fault) -> Self {
        self.commit(Rule::of(path, when, fault));
        self
    }

    /// With all these faults.
    pub fn faults(self, rules: impl IntoIterator<Item = Rule>) -> Self {
        rules.into_iter().for_each(|rule| self.commit(rule));
        self
    }

    /// Adds a fault while the server runs.
    pub fn commit(&self, rule: Rule) {
        self.shared.lock().rules.push(Arc::new(Standing::new(rule)));
    }

    /// Takes all faults away.
    pub fn behave(&self) {
        self.shared.lock().rules.clear();
    }

    /// All finished exchanges so far, in the order of their ends.
    pub fn log(&self) -> Vec<Exchange> {
        self.shared.lock().log.clone()
    }

    /// Waits until the log satisfies `done`, and returns it.
    pub fn wait_log(&self, limit: Duration, done: impl Fn(&[Exchange]) -> bool) -> Result<Vec<Exchange>> {
        let state = self.wait(limit, |state| done(&state.log))?;
        Ok(state.log.clone())
    }

    /// Bytes of body that went out for `path`, those of unfinished exchanges included.
    pub fn sent(&self, path: &str) -> u64 {
        self.shared.lock().sent.get(path).copied().unwrap_or_default()
    }

    /// Waits until so many bytes of body went out for `path`.
    pub fn wait_sent(&self, path: &str, bytes: u64, limit: Duration) -> Result<()> {
        self.wait(limit, |state| state.sent.get(path).is_some_and(|sent| *sent >= bytes)).map(drop)
    }

    fn wait(&self, limit: Duration, done: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            anyhow::ensure!(!left.is_zero(), "the HTTP log after {limit:?}: {:#?}", state.log);
            state = self.shared.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state)
    }

    /// Cuts every open connection.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Stops listening and cuts every connection, as a server that is killed. Faults, counts and log stay.
    pub fn stop(&mut self) {
        self.door = None;
        self.shared.cut();
    }

    /// Serves again, after [`Self::stop`], on a new listener.
    pub fn resume(&mut self, listener: TcpListener) -> Result<()> {
        self.door = Some(Door::open(listener, &self.shared)?);
        Ok(())
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request and tells what has to do with it.
    fn concern(&self, path: &str) -> Vec<Arc<Standing>> {
        let mut state = self.lock();
        let count = state.counts.entry(path.to_owned()).or_default();
        *count += 1;
        let nth = *count;
        state.rules.iter().filter(|rule| rule.concerns(path, nth)).map(Arc::clone).collect()
    }

    /// Counts bytes of body that went out.
    pub(super) fn count(&self, path: &str, bytes: u64) {
        let mut state = self.lock();
        match state.sent.get_mut(path) {
            Some(sent) => *sent += bytes,
            None => drop(state.sent.insert(path.to_owned(), bytes)),
        }
        drop(state);
        self.news.notify_all();
    }

    /// A number that no answer had before.
    pub(super) fn fresh(&self) -> u64 {
        let mut state = self.lock();
        state.answers += 1;
        state.answers
    }

    fn cut(&self) {
        for connection in self.lock().connections.drain(..) {
            // It may be closed already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn converse(&self, stream: &TcpStream, connection: usize) {
        let mut reader = BufReader::new(stream);
        while let Ok(Some(mut exchange)) = request(&mut reader, connection) {
            exchange.at = self.begun.elapsed();
            let faults = self.concern(&exchange.path);
            let stay = answer(stream, self, &faults, &mut exchange);
            self.lock().log.push(exchange);
            self.news.notify_all();
            if !stay.unwrap_or(false) {
                break;
            }
        }
        // The client may have closed it first.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// A listener that is served. Dropped, it is closed before that returns, so that its port can be bound anew.
#[derive(Debug)]
struct Door {
    wake: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn open(listener: TcpListener, shared: &Arc<Shared>) -> Result<Self> {
        // The accepting thread polls; a client that is gone before it is accepted must not hold it.
        listener.set_nonblocking(true)?;
        let (end, wake) = std::io::pipe()?;
        let shared = Arc::clone(shared);
        let thread = std::thread::spawn(move || accept(&listener, &end, &shared));
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.wake = None;
        // A thread that panicked has closed its listener too.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Accepts until the pipe is closed at its other end.
fn accept(listener: &TcpListener, end: &PipeReader, shared: &Arc<Shared>) {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        if poll(&mut ready, None).is_err() {
            continue;
        }
        let [_, ended] = ready;
        if !ended.revents().is_empty() {
            return;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let mut state = shared.lock();
        state.connections.extend(stream.try_clone());
        let number = state.accepted;
        state.accepted += 1;
        drop(state);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || shared.converse(&stream, number));
    }
}
