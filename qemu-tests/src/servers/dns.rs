//! A name server that knows one set of addresses for every name, and fails first if it is told to.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What befalls a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The answer is SERVFAIL.
    ServFail,
    /// No answer.
    Silence,
}

/// A running name server. It ends with this value.
#[derive(Debug)]
pub struct DnsServer {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    queries: AtomicUsize,
    stopped: AtomicBool,
}

impl DnsServer {
    /// Answers on `socket`, wherever that was bound, that every name has `addresses`; but of the first `count` queries
    /// each suffers `refusal`. (A resolver asks two at a time: for IPv4 and for IPv6, and there is no IPv6.)
    pub fn serve(socket: UdpSocket, addresses: &[Ipv4Addr], count: usize, refusal: Refusal) -> Result<Self> {
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("not a socket")?;
        let state = Arc::new(State::default());
        let (shared, addresses) = (Arc::clone(&state), addresses.to_vec());
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while !shared.stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                let nth = shared.queries.fetch_add(1, Ordering::Relaxed) + 1;
                let refusal = (nth <= count).then_some(refusal);
                let query = packet.get(..length).unwrap_or_default();
                if let Some(answer) = answer(query, &addresses, refusal) {
                    // A client that is gone needs none.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { state })
    }

    /// How many queries came.
    pub fn queries(&self) -> usize {
        self.state.queries.load(Ordering::Relaxed)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Relaxed);
    }
}

/// RFC 1035, 4.1: a head of twelve bytes, the question as it came, the answers.
fn answer(query: &[u8], addresses: &[Ipv4Addr], refusal: Option<Refusal>) -> Option<Vec<u8>> {
    const A: [u8; 4] = [0, 1, 0, 1];
    let name = query.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(12..12 + name + A.len())?;
    let addresses = if question.ends_with(&A) && refusal.is_none() { addresses } else { &[] };
    // An answer, recursion wished and available; 2 is SERVFAIL.
    let code = match refusal {
        None => 0x80,
        Some(Refusal::ServFail) => 0x82,
        Some(Refusal::Silence) => return None,
    };
    let counts = [0, 1, 0, u8::try_from(addresses.len()).ok()?, 0, 0, 0, 0];
    let mut packet = [query.get(..2)?, &[0x81, code], &counts, question].concat();
    for address in addresses {
        // The question's name, type A, class IN, kept for no time, four bytes.
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        packet.extend(address.octets());
    }
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04boot\x04test\x00\x00\x01\x00\x01";

    #[test]
    fn an_address_is_told_and_a_failure_has_none() {
        let here = [Ipv4Addr::new(10, 77, 0, 1)];
        let told = b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x04boot\x04test\x00\x00\x01\x00\x01\
                     \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x0a\x4d\x00\x01";
        assert_eq!(answer(QUERY, &here, None).unwrap(), told);
        let failed = answer(QUERY, &here, Some(Refusal::ServFail)).unwrap();
        assert_eq!(failed, b"\x12\x34\x81\x82\x00\x01\x00\x00\x00\x00\x00\x00\x04boot\x04test\x00\x00\x01\x00\x01");
        assert_eq!(answer(QUERY, &here, Some(Refusal::Silence)), None);
        assert_eq!(answer(&QUERY[..20], &here, None), None);
    }
}
