//! `rootbeam trace`: what streaming machines read first becomes the boot order of their image.

use crate::cli::Mismatch;
use crate::output;
use crate::term::{Bytes, Term, result};
use anyhow::{Context, Result, bail};
use rootbeam_init::boot_order::{BootOrder, MAX_BYTES, Subject};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  rootbeam trace trace -o web.order                 of one boot
  rootbeam trace node1 node2 node3 -o web.order     of several boots or machines
  ssh node cat /run/rootbeam/stream/trace | rootbeam trace - -o web.order

A machine that streams its image records a trace where its command line says so: with

  rootbeam.mode=stream rootbeam.stream.trace=60

it is /run/rootbeam/stream/trace when the system has run for 60 s, and grows until then. It names the chunks of the image
in the order in which they were first read. Then

  rootbeam image manifest web.squashfs --boot-order web.order

puts that order into the manifest, and machines that stream the image fetch these chunks before the rest. The image stays
as it is; an image with other bytes needs a trace of its own, and its manifest takes no other.

Of several traces, chunks that more of them have come first, and among these those that are read earlier in the mean. So
what every boot reads is not behind what one has read by chance.

Exit codes: 0 written, 1 failed, 2 wrong usage, 3 the traces are of different images (nothing is written).";

/// Arguments of `rootbeam trace`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Traces of the same image, or boot orders made of them; `-` is standard input
    #[arg(value_name = "FILE|-", required = true)]
    pub files: Vec<PathBuf>,
    /// Where the boot order is written; default: standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Runs `rootbeam trace`.
pub fn run(args: &Args, term: &Term) -> Result<()> {
    let traces = args.files.iter().map(|file| Ok((file.as_path(), read(file)?))).collect::<Result<Vec<_>>>()?;
    let [(first, BootOrder { subject, .. }), others @ ..] = traces.as_slice() else {
        bail!("give at least one trace");
    };
    for (file, trace) in others {
        if let Some(difference) = difference(&trace.subject, subject) {
            let text = format!("{} is of another image than {}: {difference}", file.display(), first.display());
            return Err(Mismatch(text).into());
        }
    }
    let orders: Vec<&[u32]> = traces.iter().map(|(_, trace)| trace.chunks.as_slice()).collect();
    let order = BootOrder { subject: *subject, chunks: merge(&orders) };
    let text = order.render();
    match &args.output {
        Some(place) => output::write(place, text.as_bytes())?,
        None => result(text.trim_end())?,
    }
    let chunks = order.chunks.len() as u64;
    let bytes = chunks.saturating_mul(subject.chunk_size.into()).min(subject.size);
    let of = if traces.len() == 1 { "one trace".to_owned() } else { format!("{} traces", traces.len()) };
    term.note(format_args!("{chunks} chunks of {of}: {} of {} come first", Bytes(bytes), Bytes(subject.size)));
    Ok(())
}

/// Reads a trace or a boot order.
pub fn read(path: &Path) -> Result<BootOrder> {
    let name = path.display();
    let input: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path).with_context(|| format!("cannot open {name}"))?),
    };
    let mut text = String::new();
    input.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
    let about = || {
        format!(
            "{name} is no trace: that is /run/rootbeam/stream/trace of a machine with rootbeam.stream.trace=SECONDS"
        )
    };
    if text.len() as u64 > MAX_BYTES {
        bail!("{}: it has more than {}", about(), Bytes(MAX_BYTES));
    }
    let order = BootOrder::parse(&text).with_context(about)?;
    if order.chunks.is_empty() {
        bail!("{name} names no chunk: nothing of the image was read while it was recorded");
    }
    Ok(order)
}

/// In what an image is another than the one that is meant.
pub fn difference(found: &Subject, meant: &Subject) -> Option<String> {
    if found.size != meant.size {
        return Some(format!("that has {} bytes, this {}", found.size, meant.size));
    }
    if found.chunk_size != meant.chunk_size {
        return Some(format!("that has chunks of {} bytes, this of {}", found.chunk_size, meant.chunk_size));
    }
    (found.sha256 != meant.sha256).then(|| format!("that has the SHA-256 {}, this {}", found.sha256, meant.sha256))
}

/// The chunks of all orders: those that more of them have first, then those with the earlier mean place.
fn merge(orders: &[&[u32]]) -> Vec<u32> {
    let mut places = BTreeMap::<u32, (usize, usize)>::new();
    for order in orders {
        for (place, chunk) in order.iter().enumerate() {
            let (times, sum) = places.entry(*chunk).or_default();
            (*times, *sum) = (*times + 1, *sum + place);
        }
    }
    let mut chunks: Vec<(u32, (usize, usize))> = places.into_iter().collect();
    // Among chunks that equally many have, the sums of their places stand as the means do.
    chunks.sort_by_key(|(chunk, (times, sum))| (Reverse(*times), *sum, *chunk));
    chunks.into_iter().map(|(chunk, _)| chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trace_is_its_own_order() {
        assert_eq!(merge(&[&[7, 3, 9, 0]]), [7, 3, 9, 0]);
    }

    #[test]
    fn what_more_have_comes_first_and_then_what_is_read_earlier() {
        // 5 is first in one trace only; 1 and 2 change places, and 2 is earlier in the mean.
        assert_eq!(merge(&[&[5, 1, 2, 3], &[2, 3, 1], &[2, 1, 3, 6]]), [2, 1, 3, 5, 6]);
        assert_eq!(merge(&[&[1, 2], &[2, 1]]), [1, 2], "equals stand in the order of the image");
        assert_eq!(merge(&[&[4, 8], &[8, 9], &[8, 9]]), [8, 9, 4]);
    }
}
