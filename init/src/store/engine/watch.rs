//! The fetch worker and its connections, watched: what is given up, and what is lost.

use super::super::Millis;
use super::jobs::Job;
use super::{Action, Engine, Intake, Link};
use crate::messages::{FetchCause, StoreNews};

/// How much longer than its stall limit a fetch worker may be silent before it counts as stuck.
const STUCK_MARGIN: Millis = 10_000;

impl Engine {
    /// The jobs are lost with their worker.
    pub(super) fn lose_jobs(&mut self, now: Millis) {
        let lost = self.jobs.clear();
        for job in &lost {
            self.sources.failed(job.source, &FetchCause::WorkerDied, now);
            self.tally.failures = self.tally.failures.saturating_add(1);
        }
        if let Some(Job { source, .. }) = lost.first() {
            let (source, cause) = (*source, FetchCause::WorkerDied);
            self.actions.push_back(Action::News(StoreNews::Trouble { source, cause, pause_ms: 0 }));
        }
    }

    pub(super) fn cancel(&mut self, job: u32) {
        if let Some(lane) = self.jobs.get(job).map(|job| job.lane) {
            self.jobs.give_up(job);
            self.actions.push_back(Action::Cancel { lane, job });
        }
    }

    pub(super) fn cancel_all(&mut self) {
        for job in self.jobs.live().map(|job| job.number).collect::<Vec<_>>() {
            self.cancel(job);
        }
    }

    /// Whether the fetch worker owes something of it.
    pub(super) fn is_watched(&self, job: &Job) -> bool {
        self.intake(job.number) != Intake::Hold
    }

    pub(super) fn stuck_at(&self, job: &Job) -> Millis {
        job.heard.saturating_add(job.patience).saturating_add(STUCK_MARGIN)
    }

    /// A worker that says nothing is let go; a connection that all but says nothing is given up.
    pub(super) fn look_after_fetcher(&mut self, now: Millis) {
        if self.jobs.all().any(|job| self.is_watched(job) && now >= self.stuck_at(job)) {
            self.actions.push_back(Action::DropFetcher);
            self.link = Link::None;
            for job in self.jobs.clear() {
                self.request_failed(&job, FetchCause::Stalled, now);
            }
            return;
        }
        let due = |job: &&Job| now >= job.due() && self.is_watched(job);
        for job in self.jobs.live().filter(due).cloned().collect::<Vec<_>>() {
            if job.bytes - job.stretch.1 < job.patience {
                self.cancel(job.number);
                self.request_failed(&job, FetchCause::Stalled, now);
            } else if let Some(job) = self.jobs.get_mut(job.number) {
                job.stretch = (now, job.bytes);
            }
        }
    }
}
