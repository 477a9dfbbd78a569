//! The worker's side of the served file: when it can be, what its readers want, and what became of it.

use super::streaming::{End, Streaming};
use super::trace::Trace;
use super::{EIO, Stop, Worker};
use crate::contract::role;
use crate::messages::StoreNews;
use std::io;
use std::time::Instant;

impl Worker {
    /// Serves the image as a file, where that was asked for; what is there already is told to it.
    pub(super) fn serve(&mut self) -> Result<(), Stop> {
        self.try_serve().map_err(|error| {
            log::error!("{}: the image cannot be served: {error}", role::STORE);
            Stop::Broken
        })
    }

    fn try_serve(&mut self) -> io::Result<()> {
        let (Some((facts, subject)), Some(engine)) = (&self.opened, &self.engine) else { return Ok(()) };
        // The last chunk may have come between the news and the order: then the engine has no transfer any more.
        let sealed = self.image.is_sealed()?;
        if sealed && self.whole.is_some_and(|whole| Some(whole) != facts.manifest) {
            return Err(io::Error::other("it was replaced by another one before anybody was told to keep to it"));
        }
        let image = engine.servable().filter(|now| now.manifest == facts.manifest).and_then(|_| engine.transfer());
        if image.is_none() && !sealed {
            // Its source has contradicted itself in between: it waits until the same image is there again.
            return Ok(());
        }
        let Some((connection, eio)) = self.asked.take() else { return Ok(()) };
        let have = |chunk| image.map_or(sealed, |image| image.has(chunk));
        let (size, chunk_size) = (subject.size, subject.chunk_size.into());
        let trace = self.traces.then(|| Trace::new(*subject));
        let streaming = Streaming::start(connection, self.image.handle()?, size, chunk_size, have, eio, trace)?;
        let streaming = self.streaming.insert(streaming);
        if sealed {
            streaming.sealed();
        }
        let now = self.now();
        if let Some(engine) = &mut self.engine {
            engine.stream(now);
        }
        Ok(())
    }

    /// Takes up what readers of the served file want, and what became of it; tells when it could be served.
    pub(super) fn tend_stream(&mut self) -> Result<(), Stop> {
        if self.opened.is_none()
            && let Some((facts, subject)) =
                self.engine.as_ref().and_then(|engine| engine.servable().zip(engine.subject()))
        {
            self.opened = Some((facts.clone(), subject));
            self.outbox.push_back(StoreNews::Opened { facts });
        }
        if self.asked.is_some() {
            self.serve()?;
        }
        let Some(streaming) = &mut self.streaming else { return Ok(()) };
        let (wanted, end) = (streaming.wanted(), streaming.end());
        self.outbox.extend(streaming.patience(Instant::now()).map(|waits| match waits {
            true => StoreNews::ReadWaits,
            false => StoreNews::ReadGoesOn,
        }));
        if !wanted.is_empty() {
            let now = self.now();
            if let Some(engine) = &mut self.engine {
                engine.demand(wanted, now);
                self.act();
            }
        }
        match end {
            Some(End::Released) => self.outbox.push_back(StoreNews::Released),
            Some(End::Refused(error)) => {
                self.outbox.push_back(StoreNews::NotReleased { errno: error.raw_os_error().unwrap_or(EIO) });
            }
            Some(End::Lost) => self.outbox.push_back(StoreNews::Lost),
            None => {}
        }
        Ok(())
    }
}
