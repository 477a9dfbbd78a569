//! The packets of SNTP (RFC 4330; RFC 5905, 7.3), in the client's mode: bytes in, a time out.

/// Length of a packet without extensions, in bytes.
pub const LENGTH: usize = 48;
/// The port of time servers.
pub const PORT: u16 = 123;

/// Seconds from 1900, where NTP counts from, to 1970.
const TO_1970: u64 = 2_208_988_800;
/// NTP's seconds have 32 bits: after so many they begin anew, first in February 2036.
const ERA: u64 = 1 << 32;
/// Version 4, mode 3: a client. The leap bits are a server's.
const CLIENT: u8 = 4 << 3 | 3;

/// Why an answer is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too short, or not by a server.
    #[error("the answer is no server's packet")]
    Form,
    /// Not an answer to this question: an old one, or a stranger's.
    #[error("the answer belongs to another question")]
    Origin,
    /// The server does not know the time, or asks to be left alone.
    #[error("the server has no time to give")]
    Unsynchronized,
}

/// A question. Its transmit timestamp is `nonce`, which the server gives back, rather than this machine's time, which
/// is wrong and nobody's business.
pub fn question(nonce: [u8; 8]) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    let [first, .., _, _, _, _, _, _, _, _] = &mut packet;
    *first = CLIENT;
    for (to, from) in packet.iter_mut().skip(40).zip(nonce) {
        *to = from;
    }
    packet
}

/// The time of the answer to the question with `nonce`, in seconds since 1970, in the era in which it is nearest to
/// `about`.
pub fn answer(packet: &[u8], nonce: [u8; 8], about: u64) -> Result<u64, Refused> {
    let [first, stratum, ..] = packet else { return Err(Refused::Form) };
    let (leap, version, mode) = (first >> 6, first >> 3 & 7, first & 7);
    let field =
        |at: usize| packet.get(at..at + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).ok_or(Refused::Form);
    let (origin, sent) = (field(24)?, u64::from_be_bytes(field(40)?));
    if !(1..=4).contains(&version) || mode != 4 {
        return Err(Refused::Form);
    }
    if origin != nonce {
        return Err(Refused::Origin);
    }
    // Leap 3 is an alarm; stratum 0 a "kiss of death", 16 and above unsynchronized.
    if leap == 3 || !(1..=15).contains(stratum) || sent == 0 {
        return Err(Refused::Unsynchronized);
    }
    let from_1900 = sent >> 32;
    let ahead = from_1900.wrapping_sub(about.wrapping_add(TO_1970)) % ERA;
    let seconds = if ahead < ERA / 2 { about.checked_add(ahead) } else { about.checked_sub(ERA - ahead) };
    seconds.ok_or(Refused::Unsynchronized)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 8] = *b"nonce..!";

    /// What a server of stratum 2 answers at `seconds` since 1900.
    fn reply(seconds: u32) -> [u8; LENGTH] {
        let mut packet = [0; LENGTH];
        packet[0] = 4 << 3 | 4;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&NONCE);
        packet[40..44].copy_from_slice(&seconds.to_be_bytes());
        packet
    }

    #[test]
    fn a_question_holds_nothing_but_its_nonce() {
        let packet = question(NONCE);
        assert_eq!((packet[0], &packet[40..]), (0x23, NONCE.as_slice()));
        assert!(packet[1..40].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_answer_is_the_servers_time() {
        // 2026-11-24 13:48:55 UTC, by the table of eras in RFC 5905.
        let seconds = 1_795_528_135 + TO_1970;
        assert_eq!(answer(&reply(seconds as u32), NONCE, 1_700_000_000), Ok(1_795_528_135));
        // After the wrap of 2036, and before the time that it is about.
        for time in [2_200_000_000, 1_000_000_000] {
            assert_eq!(answer(&reply((time + TO_1970) as u32), NONCE, 1_700_000_000), Ok(time));
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let good = reply(4_000_000_000);
        let with = |at: usize, byte: u8| {
            let mut packet = good;
            packet[at] = byte;
            answer(&packet, NONCE, 0)
        };
        for length in 0..LENGTH {
            assert_eq!(answer(&good[..length], NONCE, 0), Err(Refused::Form), "{length}");
        }
        assert_eq!(with(0, 0x23), Err(Refused::Form), "a client's own packet");
        assert_eq!(with(24, 0), Err(Refused::Origin));
        assert_eq!(with(0, 0xe4), Err(Refused::Unsynchronized), "leap alarm");
        assert_eq!(with(1, 0), Err(Refused::Unsynchronized), "kiss of death");
        assert_eq!(with(1, 16), Err(Refused::Unsynchronized));
        let mut unset = good;
        unset[40..].fill(0);
        assert_eq!(answer(&unset, NONCE, 0), Err(Refused::Unsynchronized));
    }

    #[test]
    fn no_bytes_at_all_panic_it() {
        let mut state = 1_u64;
        for length in (0..200).cycle().take(20_000) {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 33) as u8
                })
                .collect();
            let _ = answer(&bytes, NONCE, u64::MAX);
        }
    }
}
