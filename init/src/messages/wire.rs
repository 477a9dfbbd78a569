//! The encoding of a message: postcard, one message a packet, nothing before or behind it.

use serde::{Serialize, de::DeserializeOwned};

/// The longest packet, in bytes. Senders stay below it; a longer one is cut by the kernel and so refused.
pub const MAX_PACKET: usize = 32 << 10;

/// A packet that is no message, or a message that is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than [`MAX_PACKET`].
    #[error("the message is longer than {MAX_PACKET} bytes")]
    TooLong,
    /// Not this message type, or with bytes left over.
    #[error("the packet is not a message of this channel")]
    NotAMessage,
}

/// Encodes one message.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, Malformed> {
    let packet = postcard::to_stdvec(message).map_err(|_| Malformed::NotAMessage)?;
    if packet.len() > MAX_PACKET { Err(Malformed::TooLong) } else { Ok(packet) }
}

/// Decodes one packet; every byte of it must belong to the message.
pub fn decode<M: DeserializeOwned>(packet: &[u8]) -> Result<M, Malformed> {
    if packet.len() > MAX_PACKET {
        return Err(Malformed::TooLong);
    }
    match postcard::take_from_bytes(packet) {
        Ok((message, [])) => Ok(message),
        _ => Err(Malformed::NotAMessage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Label;
    use crate::messages::{
        Carrier, FetchCause, FetchNews, FetchWarning, Head, ImageFacts, KeeperNews, Lease, NetCause, NetNews, Range,
        Route, SourceTally, StoreCause, StoreNews, Tally, TlsFault, Trust, Validity,
    };
    use crate::messages::{Compressor, FilesystemKind};
    use std::fmt::Debug;

    /// xorshift64*: the same numbers at every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        fn below(&mut self, end: usize) -> usize {
            (self.next() >> 16) as usize % end.max(1)
        }

        fn bytes(&mut self, length: usize) -> Vec<u8> {
            (0..length).map(|_| self.next() as u8).collect()
        }
    }

    /// Bytes that begin like a message and go astray.
    fn mutated(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = good[random.below(good.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(packet.len());
            match random.below(5) {
                0 => packet[at] ^= 1 << random.below(8),
                1 => packet[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                2 => packet.truncate(at.max(1)),
                3 => packet.insert(at, random.next() as u8),
                _ => {
                    let length = random.below(40);
                    packet.extend(random.bytes(length));
                }
            }
        }
        packet
    }

    /// Feeds the decoder of `M`; what it takes must mean the same once more. Returns how many packets it took.
    fn feed<M: Serialize + DeserializeOwned + PartialEq + Debug>(good: &[M], seed: u64) -> usize {
        let packets: Vec<Vec<u8>> = good.iter().map(|message| encode(message).unwrap()).collect();
        for (packet, message) in packets.iter().zip(good) {
            assert_eq!(decode::<M>(packet).as_ref(), Ok(message));
        }
        let mut random = Random(seed);
        let mut taken = 0;
        for round in 0..100_000 {
            let packet = if round % 2 == 0 {
                let length = random.below(200);
                random.bytes(length)
            } else {
                mutated(&mut random, &packets)
            };
            if let Ok(message) = decode::<M>(&packet) {
                taken += 1;
                // Not byte for byte: a number may have been written with more bytes than it needs.
                assert_eq!(decode::<M>(&encode(&message).unwrap()), Ok(message), "{packet:02x?}");
            }
        }
        taken
    }

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    #[test]
    fn garbage_from_the_net_worker_is_refused_or_means_something() {
        let lease = Lease {
            link: label("eth0"),
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            address: [10, 0, 2, 15].into(),
            prefix: 24,
            routes: vec![Route { destination: [0; 4].into(), prefix: 0, gateway: Some([10, 0, 2, 2].into()) }],
            dns: vec![[10, 0, 2, 3].into(), std::net::Ipv6Addr::LOCALHOST.into()],
            time_servers: vec![[10, 0, 2, 4].into()],
            domain: Some(label("lab.example")),
            hostname: Some(label("web1")),
            server: Some([10, 0, 2, 2].into()),
            seconds: Some(3600),
        };
        let good = [
            NetNews::Link { name: label("eth0"), mac: [1; 6], carrier: Carrier::Up },
            NetNews::Asking { link: label("eth1") },
            NetNews::Up(lease.clone()),
            NetNews::Renewed(lease),
            NetNews::Alone { number: 7 },
            NetNews::Failed(NetCause::NoSuchLink { present: vec![label("eth0"), label("eth1")] }),
        ];
        assert!(feed(&good, 0x2006) > 1000, "hardly anything was decoded, so hardly anything was tried");
    }

    #[test]
    fn garbage_from_the_store_is_refused_or_means_something() {
        let tally = Tally { total: 1 << 40, verified: 3, fetched: 4, rejected_chunks: 5, requests: 6, failures: 7 };
        let facts = ImageFacts {
            filesystem: FilesystemKind::Squashfs,
            compressor: Compressor::Zstd,
            size: 1 << 30,
            sha256: Some(crate::digest::Sha256([7; 32])),
            trust: Trust::Signed,
            signers: vec![crate::trust::KeyId(8)],
            manifest: Some(crate::digest::Sha256([6; 32])),
            version: Some(9),
            date: None,
            layers: vec![label("site.squashfs")],
        };
        let cause = FetchCause::Status { status: 503, retry_after: Some(30) };
        let good = [
            StoreNews::Size { bytes: u64::MAX },
            StoreNews::Progress(tally),
            StoreNews::Trouble { source: 1, cause: cause.clone(), pause_ms: 500 },
            StoreNews::Unfit { source: 1, cause: StoreCause::ManifestMissing { source: 1 } },
            StoreNews::Warning(FetchWarning::LetPass { now: 1 << 31, valid: Validity::From(1 << 32) }),
            StoreNews::Touched {
                size: 1 << 30,
                chunk_size: 65_536,
                sha256: crate::digest::Sha256([5; 32]),
                chunks: vec![0, 300, u32::MAX],
            },
            StoreNews::NeedFetcher,
            StoreNews::Answered,
            StoreNews::Absent,
            StoreNews::Source {
                source: 2,
                tally: SourceTally { trouble: Some(FetchCause::WrongBytes), ..SourceTally::default() },
            },
            StoreNews::Done { facts, tally },
            StoreNews::Failed(StoreCause::Fetch { source: 0, cause }),
            StoreNews::Failed(StoreCause::ManifestTooOld { source: 0, version: 6, floor: 7 }),
            StoreNews::Failed(StoreCause::Kernel { required: label("6.1.0-1-amd64") }),
        ];
        assert!(feed(&good, 0x1991) > 1000, "hardly anything was decoded, so hardly anything was tried");
    }

    #[test]
    fn garbage_from_the_fetch_worker_is_refused_or_means_something() {
        let range = Some(Range { start: 1 << 20, end: 1 << 40 });
        let validator = Some("\"1\"".to_owned());
        let good = [
            FetchNews::Time { seconds: 1 << 33 },
            FetchNews::Warning(FetchWarning::Open),
            FetchNews::Head {
                lane: 7,
                job: 300,
                head: Head { status: 206, length: Some(1 << 20), range, size: Some(u64::MAX), validator },
            },
            FetchNews::Data { lane: 0, job: u32::MAX, bytes: 65_536 },
            FetchNews::End { lane: 1, job: 2 },
            FetchNews::Failed { lane: 2, job: 3, cause: FetchCause::Tls(TlsFault::Name) },
        ];
        assert!(feed(&good, 0x1969) > 1000, "hardly anything was decoded, so hardly anything was tried");
    }

    #[test]
    fn garbage_from_the_keeper_is_refused_or_means_something() {
        assert!(feed(&[KeeperNews::Begun], 0x2012) > 1000, "hardly anything was decoded, so hardly anything was tried");
    }

    #[test]
    fn a_name_that_leads_out_or_steers_a_terminal_is_no_message() {
        let good = encode(&NetNews::Asking { link: label("eth0") }).unwrap();
        for bad in ["../0", "a\x1b[2", "-net"] {
            let mut packet = good.clone();
            let at = packet.len() - 4;
            packet[at..].copy_from_slice(bad.as_bytes());
            assert_eq!(decode::<NetNews>(&packet), Err(Malformed::NotAMessage), "{bad:?}");
        }
    }

    #[test]
    fn a_packet_holds_one_message_and_nothing_else() {
        let mut packet = encode(&StoreNews::NeedFetcher).unwrap();
        packet.push(0);
        assert_eq!(decode::<StoreNews>(&packet), Err(Malformed::NotAMessage));
        assert_eq!(decode::<StoreNews>(&[]), Err(Malformed::NotAMessage));
        assert_eq!(decode::<StoreNews>(&vec![0; MAX_PACKET + 1]), Err(Malformed::TooLong));
        assert_eq!(encode(&vec![0_u8; MAX_PACKET]), Err(Malformed::TooLong));
    }
}
