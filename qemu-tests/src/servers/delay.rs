//! A server that is far away: a relay in front of one that is near, which delivers every byte half a round trip after it
//! came, and as many as the wire carries.

use anyhow::{Context, Result};
use rustix::net::Shutdown;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes of one delivery.
const PIECE: usize = 64 << 10;
/// The most deliveries on their way in one direction of a connection: 20 ms of 6 Gbit/s.
const UNDER_WAY: usize = 256;

/// A relay. It takes no connections any more when this value ends.
#[derive(Debug)]
pub struct FarAway(Arc<TcpListener>);

impl FarAway {
    /// Relays what connects to `listener` to the server that `near` connects to, `round_trip` away.
    pub fn start(
        listener: TcpListener,
        round_trip: Duration,
        near: impl Fn() -> Result<TcpStream> + Send + 'static,
    ) -> Self {
        let listener = Arc::new(listener);
        let taken = Arc::clone(&listener);
        thread::spawn(move || {
            while let Ok((client, _)) = taken.accept() {
                let began = Instant::now();
                // A server that is not there is for the client to find out.
                let Ok(server) = near() else { continue };
                let _ = relay(client, server, began, round_trip);
            }
        });
        Self(listener)
    }
}

impl Drop for FarAway {
    fn drop(&mut self) {
        // It wakes the thread that accepts.
        let _ = rustix::net::shutdown(&*self.0, Shutdown::Both);
    }
}

fn relay(client: TcpStream, server: TcpStream, began: Instant, round_trip: Duration) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let half = round_trip / 2;
    // The handshake with the client was of no length: what the client says first is later by it.
    let up = move |now: Instant| (now + half).max(began + round_trip + half);
    direct(client.try_clone()?, server.try_clone()?, up)?;
    direct(server, client, move |now| now + half)
}

/// Delivers what comes `from` one side to the other, when it is `due` by the time at which it came.
fn direct(from: TcpStream, to: TcpStream, due: impl Fn(Instant) -> Instant + Send + 'static) -> Result<()> {
    let (sender, receiver) = sync_channel(UNDER_WAY);
    thread::Builder::new().spawn(move || take(from, &sender, due)).context("no thread")?;
    thread::Builder::new().spawn(move || deliver(to, &receiver)).context("no thread")?;
    Ok(())
}

type Delivery = (Instant, Vec<u8>);

/// An end of the connection is delivered like everything else: as no bytes.
fn take(mut from: TcpStream, sender: &SyncSender<Delivery>, due: impl Fn(Instant) -> Instant) {
    loop {
        let mut bytes = vec![0; PIECE];
        let count = match from.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.unwrap_or(0),
        };
        bytes.truncate(count);
        if sender.send((due(Instant::now()), bytes)).is_err() || count == 0 {
            return;
        }
    }
}

fn deliver(mut to: TcpStream, receiver: &Receiver<Delivery>) {
    while let Ok((due, bytes)) = receiver.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if bytes.is_empty() || to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    fn far_away(serve: impl FnOnce(TcpStream) + Send + 'static) -> Result<(FarAway, TcpStream)> {
        let (near, far) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (near_address, far_address) = (near.local_addr()?, far.local_addr()?);
        thread::spawn(move || near.accept().map(|(stream, _)| serve(stream)));
        let relay = FarAway::start(far, ROUND_TRIP, move || Ok(TcpStream::connect(near_address)?));
        Ok((relay, TcpStream::connect(far_address)?))
    }

    #[test]
    fn an_answer_takes_a_round_trip_and_the_first_one_a_second_for_the_handshake() -> Result<()> {
        let (_relay, mut stream) = far_away(|mut stream| {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        })?;
        let began = Instant::now();
        for (byte, least) in [(1, ROUND_TRIP * 2), (2, ROUND_TRIP * 3)] {
            let mut answer = [0];
            stream.write_all(&[byte])?;
            stream.read_exact(&mut answer)?;
            assert_eq!(answer, [byte]);
            assert!(began.elapsed() >= least, "{:?} after {byte}", began.elapsed());
        }
        Ok(())
    }

    #[test]
    fn many_bytes_are_under_way_at_once_and_none_is_lost() -> Result<()> {
        // A piece a round trip would take twenty seconds.
        let sent: Vec<u8> = (0..400 * PIECE).map(|at| (at / 7) as u8).collect();
        let expected = sent.clone();
        let (_relay, mut stream) = far_away(move |mut stream| {
            let _ = stream.write_all(&sent);
        })?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (began, mut received) = (Instant::now(), Vec::new());
        stream.read_to_end(&mut received)?;
        assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        Ok(())
    }
}
