//! QEMU's control channel: commands and events, a JSON object a line.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bound on what QEMU answers at once.
const ANSWER: Duration = Duration::from_secs(30);

/// The channel, past its greeting.
#[derive(Debug)]
pub struct Qmp {
    line: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    /// Greets; QEMU sends no events before.
    pub fn greet(line: UnixStream) -> Result<Self> {
        line.set_read_timeout(Some(ANSWER))?;
        let mut qmp = Self { line: BufReader::new(line), events: Vec::new() };
        qmp.read()?.context("QEMU closed its control channel")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and waits until it is done.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.line.get_mut().write_all(request.to_string().as_bytes())?;
        while let Some(mut message) = self.read()? {
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            self.events.push(message);
        }
        bail!("QEMU ended before it answered {command}")
    }

    /// Waits until an event of that name comes that was not waited for before.
    pub fn wait_for(&mut self, name: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let named = |event: &Value| event.get("event").is_some_and(|found| found == name);
        loop {
            if let Some(at) = self.events.iter().position(named) {
                self.events.remove(at);
                return self.line.get_ref().set_read_timeout(Some(ANSWER)).map_err(Into::into);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "QEMU tells of no {name} within {limit:?}");
            self.line.get_ref().set_read_timeout(Some(left))?;
            let event = self.read().with_context(|| format!("QEMU tells of no {name} within {limit:?}"))?;
            self.events.push(event.with_context(|| format!("QEMU ended before it told of {name}"))?);
        }
    }

    /// Reads to the end of a machine that has ended, and tells why it did: `guest-shutdown`, `guest-reset`, …
    pub fn reason(mut self) -> Result<Option<String>> {
        while let Some(event) = self.read()? {
            self.events.push(event);
        }
        let shutdown = self.events.iter().find(|event| event.get("event").is_some_and(|name| name == "SHUTDOWN"));
        let reason = shutdown.and_then(|event| event.pointer("/data/reason")?.as_str());
        Ok(reason.map(str::to_owned))
    }

    fn read(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        let count = self.line.read_line(&mut line).context("no word from QEMU")?;
        if count == 0 { Ok(None) } else { Ok(Some(serde_json::from_str(&line)?)) }
    }
}
