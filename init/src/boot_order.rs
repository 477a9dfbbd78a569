//! The order in which a boot reads an image's chunks, as text: what a streaming machine records as its trace, and what
//! `rootbeam trace` and `rootbeam image manifest --boot-order` read.
//!
//! The first line says of which image it is, each further one names a chunk or a row of chunks in ascending order:
//! `17` or `20-31`.

use crate::digest::Sha256;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The first word of the file.
pub const FORMAT: &str = "rootbeam-boot-order-1";
/// The largest file that is read, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;

/// The image that an order is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Bytes.
    pub size: u64,
    /// Bytes a chunk.
    pub chunk_size: u32,
    /// SHA-256 of the whole image.
    pub sha256: Sha256,
}

/// Chunks of an image in the order in which they are first read, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootOrder {
    /// Of which image.
    pub subject: Subject,
    /// The chunks.
    pub chunks: Vec<u32>,
}

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first line is not that of such a file.
    #[error("its first line is not `{FORMAT} size=BYTES chunk_size=BYTES sha256=HEX`")]
    Header,
    /// A line that names no chunks of this image.
    #[error("line {0} is no chunk of this image, and no row of them like 20-31")]
    Line(usize),
    /// A chunk is named again.
    #[error("line {line} names chunk {chunk} again")]
    Twice {
        /// The line, from 1.
        line: usize,
        /// The chunk.
        chunk: u32,
    },
}

impl BootOrder {
    /// The order as text.
    pub fn render(&self) -> String {
        let Subject { size, chunk_size, sha256 } = &self.subject;
        let mut text = format!("{FORMAT} size={size} chunk_size={chunk_size} sha256={sha256}\n");
        for row in self.chunks.chunk_by(|before, next| before.checked_add(1) == Some(*next)) {
            // Writing into memory has no way to fail.
            let _ = match row {
                [first, .., last] => writeln!(text, "{first}-{last}"),
                [chunk] => writeln!(text, "{chunk}"),
                [] => Ok(()),
            };
        }
        text
    }

    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut lines = text.lines();
        let subject = lines.next().and_then(header).ok_or(Refusal::Header)?;
        let count = subject.size.div_ceil(u64::from(subject.chunk_size));
        let (mut chunks, mut seen) = (Vec::new(), BTreeSet::new());
        for (line, text) in (2..).zip(lines) {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let number = |text: &str| text.parse::<u32>().ok().filter(|chunk| u64::from(*chunk) < count);
            let (Some(first), Some(last)) = (number(first), number(last)) else { return Err(Refusal::Line(line)) };
            if first > last {
                return Err(Refusal::Line(line));
            }
            // A row that is there already ends here, so that few bytes cannot name very many chunks.
            if let Some(chunk) = (first..=last).find(|chunk| !seen.insert(*chunk)) {
                return Err(Refusal::Twice { line, chunk });
            }
            chunks.extend(first..=last);
        }
        Ok(Self { subject, chunks })
    }
}

fn header(line: &str) -> Option<Subject> {
    let mut words = line.split(' ');
    (words.next()? == FORMAT).then_some(())?;
    let size = words.next()?.strip_prefix("size=")?.parse().ok().filter(|size| *size > 0)?;
    let chunk_size: u32 = words.next()?.strip_prefix("chunk_size=")?.parse().ok()?;
    let sha256 = Sha256::parse(words.next()?.strip_prefix("sha256=")?).ok()?;
    // The bounds of a manifest.
    let fit = chunk_size.is_power_of_two() && (4096..=16 << 20).contains(&chunk_size) && words.next().is_none();
    fit.then_some(Subject { size, chunk_size, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject { size: 40 * 65_536 + 1, chunk_size: 65_536, sha256: Sha256([7; 32]) };

    fn parse(lines: &str) -> Result<Vec<u32>, Refusal> {
        let head = BootOrder { subject: SUBJECT, chunks: vec![] }.render();
        BootOrder::parse(&format!("{head}{lines}")).map(|order| {
            assert_eq!(order.subject, SUBJECT);
            order.chunks
        })
    }

    #[test]
    fn reads_what_it_wrote() {
        for chunks in [vec![], vec![0], vec![3, 4, 5, 1, 2, 40, 39], (0..=40).collect(), (0..=40).rev().collect()] {
            let order = BootOrder { subject: SUBJECT, chunks };
            assert_eq!(BootOrder::parse(&order.render()), Ok(order));
        }
        let order = BootOrder { subject: SUBJECT, chunks: vec![3, 4, 5, 1, 9, 10] };
        let digits = "07".repeat(32);
        let expected = format!("rootbeam-boot-order-1 size=2621441 chunk_size=65536 sha256={digits}\n3-5\n1\n9-10\n");
        assert_eq!(order.render(), expected);
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        assert_eq!(parse("1\n40\n"), Ok(vec![1, 40]));
        for bad in ["41", "0-41", "5-4", "-1", "1-", "a", "", "1 2", "4294967296"] {
            assert_eq!(parse(&format!("7\n{bad}\n8\n")), Err(Refusal::Line(3)), "{bad:?}");
        }
        assert_eq!(parse("0-9\n20\n9-12\n"), Err(Refusal::Twice { line: 4, chunk: 9 }));
    }

    #[test]
    fn refuses_what_is_no_such_file() {
        let digits = "07".repeat(32);
        for bad in [
            String::new(),
            "<html>".to_owned(),
            format!("rootbeam-boot-order-2 size=1 chunk_size=65536 sha256={digits}"),
            format!("{FORMAT} size=0 chunk_size=65536 sha256={digits}"),
            format!("{FORMAT} size=1 chunk_size=0 sha256={digits}"),
            format!("{FORMAT} size=1 chunk_size=65535 sha256={digits}"),
            format!("{FORMAT} size=1 chunk_size=65536 sha256={digits} more"),
            format!("{FORMAT} size=1 chunk_size=65536 sha256=07"),
        ] {
            assert_eq!(BootOrder::parse(&bad), Err(Refusal::Header), "{bad:?}");
        }
    }
}
