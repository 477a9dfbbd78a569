//! `bench [--runs N] [--json FILE] [NAME…]`: the budgets of the design as ratios, printed beside what they are compared
//! with. Every pair is run alternately and told by its median; nothing here fails a test, since machines differ.

mod crowd;
mod emulated;
mod memory;
mod page;
mod row;
mod runs;
mod stream;
mod wires;

use anyhow::{Context, Result, bail};
use row::Row;
use std::process::ExitCode;

/// Runs of each side, unless said otherwise.
const RUNS: usize = 5;

/// A benchmark: its name, and what measures its rows with so many runs a side.
type Benchmark = (&'static str, fn(usize) -> Result<Vec<Row>>);

const ALL: [Benchmark; 32] = [
    ("size", |_| emulated::size()),
    ("init", emulated::init),
    ("ram-100", |runs| emulated::ram("ram-100", 100, runs)),
    ("ram-400", |runs| emulated::ram("ram-400", 400, runs)),
    ("wire-100", |runs| wires::wire("wire-100", 100, 32, runs)),
    ("wire-1000", |runs| wires::wire("wire-1000", 1000, 256, runs)),
    ("wire-2500", |runs| wires::wire("wire-2500", 2500, 512, runs)),
    ("unlimited", wires::unlimited),
    ("sha256sum", wires::then_sha256sum),
    ("sources", crowd::sources),
    ("rack", crowd::rack),
    ("stream-100", |runs| stream::start("stream-100", 100, runs)),
    ("stream-1000", |runs| stream::start("stream-1000", 1000, runs)),
    ("stream-whole", stream::whole),
    ("stream-free", |runs| stream::beside_ram("stream-free", (None, 0), 512, runs)),
    ("stream-near-10", |runs| stream::beside_ram("stream-near-10", (Some(10), 0), 16, runs)),
    ("stream-near-100", |runs| stream::beside_ram("stream-near-100", (Some(100), 0), 64, runs)),
    ("stream-far-10", |runs| stream::beside_ram("stream-far-10", (Some(10), 20), 16, runs)),
    ("stream-far-100", |runs| stream::beside_ram("stream-far-100", (Some(100), 20), 64, runs)),
    ("stream-far-1000", |runs| stream::beside_ram("stream-far-1000", (Some(1000), 20), 256, runs)),
    ("stream-far-free", |runs| stream::beside_ram("stream-far-free", (None, 20), 512, runs)),
    ("page-10", |runs| page::answered("page-10", 10, runs)),
    ("page-100", |runs| page::answered("page-100", 100, runs)),
    ("page-1000", |runs| page::answered("page-1000", 1000, runs)),
    ("page-native-10", |runs| page::native("page-native-10", 10, 0, runs)),
    ("page-native-100", |runs| page::native("page-native-100", 100, 0, runs)),
    ("page-native-1000", |runs| page::native("page-native-1000", 1000, 0, runs)),
    ("page-native-far-100", |runs| page::native("page-native-far-100", 100, 20, runs)),
    ("memory-after", memory::after),
    ("memory-after-stream", memory::after_streaming),
    ("memory-peak", memory::peak),
    ("smallest", |_| memory::smallest()),
];

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Orders {
    runs: usize,
    json: Option<String>,
    chosen: Vec<Benchmark>,
}

fn orders(mut words: impl Iterator<Item = String>) -> Result<Orders> {
    let mut orders = Orders { runs: RUNS, json: None, chosen: Vec::new() };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--runs" => {
                let number = words.next().context("--runs N")?;
                orders.runs = number.parse().ok().filter(|runs| *runs > 0).context("--runs takes a number above 0")?;
            }
            "--json" => orders.json = Some(words.next().context("--json FILE")?),
            name => match ALL.iter().find(|(known, _)| *known == name) {
                Some(benchmark) => orders.chosen.push(*benchmark),
                None => {
                    let known: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
                    bail!("usage: bench [--runs N] [--json FILE] [NAME…]; the names are {}", known.join(" "))
                }
            },
        }
    }
    if orders.chosen.is_empty() {
        orders.chosen = ALL.to_vec();
    }
    Ok(orders)
}

fn bench() -> Result<()> {
    let Orders { runs, json, chosen } = orders(std::env::args().skip(1))?;
    println!("{}", runs::conditions());
    println!("{}", row::HEADINGS);
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (name, measure) in chosen {
        match measure(runs) {
            Ok(measured) => {
                measured.iter().for_each(|row| println!("{row}"));
                rows.extend(measured);
            }
            // One that cannot be measured here must not cost the others.
            Err(error) => {
                println!("{name}: not measured: {error:#}");
                failed.push(name);
            }
        }
    }
    if let Some(file) = json {
        let report = serde_json::json!({ "conditions": runs::conditions(), "rows": rows });
        std::fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {file}"))?;
    }
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(" "));
    Ok(())
}
