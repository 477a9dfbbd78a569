//! A DHCP server that says what it is told to, for what no honest server would say.

use crate::bed::PATIENCE;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// How requests are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Offers, and acknowledges the address that it would offer now.
    Grants,
    /// Offers, and then refuses.
    Refuses,
    /// Says nothing.
    Keeps,
}

/// What the server says.
#[derive(Clone, Debug)]
pub struct Script {
    pub manner: Manner,
    pub address: Ipv4Addr,
    pub mask: Ipv4Addr,
    pub router: Ipv4Addr,
    /// Lease time, T1 and T2 in seconds.
    pub times: [u32; 3],
}

/// A running scripted server. It stops when dropped.
pub struct Scripted {
    script: Arc<Mutex<Script>>,
    over: Arc<AtomicBool>,
    refusals: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    /// Answers on `socket`, which is bound to port 67 of `own` and may broadcast to `broadcast`.
    pub fn start(socket: UdpSocket, own: Ipv4Addr, broadcast: Ipv4Addr, script: Script) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let script = Arc::new(Mutex::new(script));
        let over = Arc::new(AtomicBool::new(false));
        let (refused, refusals) = channel();
        let (scripts, stop) = (script.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while !stop.load(Ordering::Relaxed) {
                // The only error is the time-out, after which the flag is looked at.
                let Ok((length, _)) = socket.recv_from(&mut packet) else { continue };
                let request = &packet[..length];
                let script = scripts.lock().unwrap().clone();
                let Some(reply) = reply(request, own, &script) else { continue };
                let client = Ipv4Addr::new(request[12], request[13], request[14], request[15]);
                let to = if client.is_unspecified() { broadcast } else { client };
                socket.send_to(&reply, (to, 68)).unwrap();
                if option(&reply, 53) == Some(&[NAK]) {
                    let _ = refused.send(());
                }
            }
        });
        Self { script, over, refusals, thread: Some(thread) }
    }

    /// Waits until it refuses a request.
    pub fn wait_for_refusal(&self) {
        self.refusals.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no request to refuse in {PATIENCE:?}"));
    }

    /// Says something else from now on.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The reply to a request, by RFC 2131.
fn reply(request: &[u8], own: Ipv4Addr, script: &Script) -> Option<Vec<u8>> {
    let kind = match (option(request, 53)?, script.manner) {
        (_, Manner::Keeps) => return None,
        ([kind], _) if *kind == DISCOVER => OFFER,
        ([kind], Manner::Grants) if *kind == REQUEST && option(request, 50) == Some(&script.address.octets()) => ACK,
        ([kind], _) if *kind == REQUEST => NAK,
        _ => return None,
    };
    let mut reply = vec![0; 240];
    reply[..4].copy_from_slice(&[2, 1, 6, 0]);
    reply[4..8].copy_from_slice(&request[4..8]);
    reply[28..44].copy_from_slice(&request[28..44]);
    reply[236..240].copy_from_slice(&[99, 130, 83, 99]);
    let mut put = |code: u8, value: &[u8]| reply.extend([&[code, value.len() as u8], value].concat());
    put(53, &[kind]);
    put(54, &own.octets());
    if kind != NAK {
        put(1, &script.mask.octets());
        put(3, &script.router.octets());
        for (code, seconds) in [51, 58, 59].into_iter().zip(script.times) {
            put(code, &seconds.to_be_bytes());
        }
    }
    reply.push(255);
    if kind != NAK {
        reply[16..20].copy_from_slice(&script.address.octets());
    }
    Some(reply)
}

/// The value of an option in a request.
fn option(packet: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = packet.get(240..)?;
    loop {
        match rest {
            [255, ..] | [] => return None,
            [0, more @ ..] => rest = more,
            [code, length, more @ ..] => {
                let (value, more) = more.split_at_checked((*length).into())?;
                if *code == wanted {
                    return Some(value);
                }
                rest = more;
            }
            [_] => return None,
        }
    }
}
