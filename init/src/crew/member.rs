//! One worker with a channel to PID 1.

use super::broken;
use crate::contract::fd;
use crate::failure::{Failure, Step};
use crate::sys::channel::{self, Channel, Received};
use crate::sys::worker::{self, Exit, Program, Worker};
use std::os::fd::{AsFd, BorrowedFd};

/// Restarts of one worker after which something is wrong that another start does not mend.
const RESTARTS: u32 = 5;

/// A worker with a channel, and the orders that a successor needs to take up its work.
pub(super) struct Member<Order, Report> {
    role: &'static str,
    pub(super) worker: Worker,
    pub(super) channel: Channel<Order, Report>,
    pub(super) standing_orders: Vec<Order>,
    restarts: u32,
}

impl<Order: serde::Serialize + Clone, Report: serde::de::DeserializeOwned> Member<Order, Report> {
    pub(super) fn start(
        program: &Program,
        role: &'static str,
        more: &[(BorrowedFd<'_>, i32)],
    ) -> Result<Self, Failure> {
        let (worker, channel) = Self::spawn(program, role, more)?;
        Ok(Self { role, worker, channel, standing_orders: Vec::new(), restarts: 0 })
    }

    fn spawn(
        program: &Program,
        role: &'static str,
        more: &[(BorrowedFd<'_>, i32)],
    ) -> Result<(Worker, Channel<Order, Report>), Failure> {
        let (channel, theirs) = channel::pair().map_err(|e| broken("socketpair", &e))?;
        let mut descriptors = vec![(theirs.as_fd(), fd::CHANNEL)];
        descriptors.extend_from_slice(more);
        let worker = worker::start(program, role, &descriptors).map_err(|e| broken(role, &e))?;
        Ok((worker, channel))
    }

    pub(super) fn send(&self, order: &Order) -> Result<(), Failure> {
        match self.channel.send(order) {
            Ok(()) => Ok(()),
            // Its end is about to be seen; a successor gets the standing orders.
            Err(channel::SendError::Closed) => Ok(()),
            Err(e) => Err(broken(self.role, &e)),
        }
    }

    pub(super) fn heard(&mut self) -> Result<Option<Report>, Failure> {
        match self.channel.receive().map_err(|e| broken(self.role, &e))? {
            Received::Message(report, _) => Ok(Some(report)),
            Received::Empty | Received::Closed => Ok(None),
            Received::Malformed(e) => {
                // A worker that talks nonsense may have been taken over: it is replaced like one that died.
                log::warn!("worker {}: {e}; it is ended", self.role);
                self.worker.kill();
                Ok(None)
            }
        }
    }

    /// How the worker ended, if it has.
    pub(super) fn ended(&self) -> Result<Option<Exit>, Failure> {
        self.worker.ended().map_err(|e| broken(self.role, &e))
    }

    /// Starts a successor with the standing orders.
    pub(super) fn replace(
        &mut self,
        program: &Program,
        exit: Exit,
        more: &[(BorrowedFd<'_>, i32)],
    ) -> Result<(), Failure> {
        self.restarts += 1;
        if self.restarts > RESTARTS {
            let cause = format!("it {exit}, for the {}th time", self.restarts);
            let remedy = "report this as a bug, with the log; a reboot may help";
            return Err(Failure::new(Step::Worker, self.role, cause, remedy));
        }
        log::warn!("worker {} {exit}; it is started again", self.role);
        (self.worker, self.channel) = Self::spawn(program, self.role, more)?;
        self.standing_orders.iter().try_for_each(|order| self.send(order))
    }
}
