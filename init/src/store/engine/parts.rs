//! Where an image is to be read soon, its chunk list comes beside it, a block at a time as chunks of it are wanted.

use super::super::sources::Stage;
use super::super::transfer::Transfer;
use super::{Engine, Phase};

impl Engine {
    /// Which file a job is for.
    pub(super) fn stage(&self, job: u32) -> Option<Stage> {
        self.jobs.any(job).map(|job| job.stage)
    }

    /// The file whose chunks a job brings, where they are still wanted.
    pub fn file(&self, job: u32) -> Option<&Transfer> {
        self.part(self.stage(job)?)
    }

    /// The chunk list or the image, where that is fetched now.
    pub(super) fn part(&self, stage: Stage) -> Option<&Transfer> {
        match (stage, &self.phase) {
            (Stage::List, Phase::List { list, .. }) => Some(list),
            (Stage::List, Phase::Image { image, .. }) => image.list(),
            (Stage::Image, Phase::Image { image, .. }) => Some(image),
            _ => None,
        }
    }

    /// Both, where both are: what the other needs comes first.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Stage, &Transfer)> {
        [Stage::List, Stage::Image].into_iter().filter_map(|stage| Some((stage, self.part(stage)?)))
    }

    /// Whether the image is fetched while its chunk list is not whole.
    pub(super) fn lists(&self) -> bool {
        self.parts().count() == 2
    }
}
