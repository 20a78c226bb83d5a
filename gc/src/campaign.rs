//! A campaign: cleaning that someone asked for, driven to an end chunk by chunk (`ferryfs gc`, `ferryfs gc --until-clean`).
//!
//! It is a step machine of its own beside the cleaner, so that a filesystem can take and leave the cleaner's lock for each chunk and
//! users go on working meanwhile.

use crate::BLOCK_BYTES;
use crate::cleaner::{Caller, Cleaner, Situation, Work};
use crate::error::{CleanError, Result};
use crate::mover::Mover;
use crate::pacer::Room;
use crate::relocator::{Progress, VictimEnd, VictimReport};
use crate::space::LogSpace;
use serde::Serialize;
use std::time::Duration;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// One victim, whatever it gains.
    OneVictim,
    /// Until nothing worth cleaning is left.
    UntilClean,
}

/// What a campaign did, in the words of `ferryfs gc`. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CampaignReport {
    /// Victims whose cleaning ended.
    pub victims: u64,
    /// Of these, emptied.
    pub emptied: u64,
    /// Of these, holding something that the media cannot read.
    pub unmovable: u64,
    /// Of these, given up after failures.
    pub failed: u64,
    /// Payload moved.
    pub moved: u64,
    /// Payload copied in vain, because it was overwritten meanwhile.
    pub lost: u64,
    /// Of the copied payload, by the device itself.
    pub offloaded: u64,
    /// Of the copied payload, through the host.
    pub by_host: u64,
    /// Copy commands on all roads.
    pub commands: u64,
    /// Checkpoints made meanwhile, by whomever.
    pub checkpoints: u64,
    /// Zones that they freed.
    pub zones_freed: u64,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CampaignStep {
    /// Call again.
    More,
    /// Make a checkpoint, tell [`Cleaner::checkpointed`] and [`Campaign::checkpointed`], and call again: at once and without waiting
    /// for the checkpoint, unless the campaign [waits](Campaign::waits).
    Checkpoint,
    /// The goal is reached, or cannot be.
    Done,
}

/// Cleaning that someone asked for.
#[derive(Debug)]
pub struct Campaign {
    goal: Goal,
    report: CampaignReport,
    commands_before: Option<u64>,
    /// Victims after which it ends in any case.
    victims_left: u64,
    /// No checkpoint since the cleaner last ran out of zones has freed one.
    starved: bool,
    finishing: bool,
}

impl Campaign {
    /// One victim.
    pub fn one_victim() -> Self {
        Self::new(Goal::OneVictim)
    }

    /// Until nothing worth cleaning is left.
    pub fn until_clean() -> Self {
        Self::new(Goal::UntilClean)
    }

    fn new(goal: Goal) -> Self {
        Self { goal, report: CampaignReport::default(), commands_before: None, victims_left: 1, starved: false, finishing: false }
    }

    /// What it did so far.
    pub fn report(&self) -> &CampaignReport {
        &self.report
    }

    /// Can it not go on before the checkpoint that it asked for is over?
    pub fn waits(&self) -> bool {
        self.finishing || self.starved
    }

    /// A checkpoint that it asked for was made.
    pub fn checkpointed(&mut self, freed: u32) {
        self.report.checkpoints += 1;
        self.report.zones_freed += u64::from(freed);
        if freed > 0 {
            self.starved = false;
        }
    }

    /// Works on one chunk. `room` as in [`Situation`].
    ///
    /// # Errors
    /// The filesystem or a device failed on a victim, which is left alone; calling again goes on with another.
    pub fn step<S: LogSpace, M: Mover>(&mut self, cleaner: &mut Cleaner<S, M>, room: Room) -> Result<CampaignStep> {
        let before = match self.commands_before {
            Some(before) => before,
            None => self.begin(cleaner),
        };
        let step = self.advance(cleaner, room);
        self.report.commands = cleaner.mover().commands().saturating_sub(before);
        step
    }

    fn begin<S: LogSpace, M: Mover>(&mut self, cleaner: &mut Cleaner<S, M>) -> u64 {
        if self.goal == Goal::UntilClean {
            // Relocated blocks fill new segments, and users may dirty those again: twice the list is plenty, and it ends.
            self.victims_left = 2 * cleaner.candidates(cleaner.config().manual_gain_permille).len() as u64 + 1;
        }
        let commands = cleaner.mover().commands();
        self.commands_before = Some(commands);
        commands
    }

    fn advance<S: LogSpace, M: Mover>(&mut self, cleaner: &mut Cleaner<S, M>, room: Room) -> Result<CampaignStep> {
        if self.finishing {
            return Ok(CampaignStep::Done);
        }
        if self.victims_left == 0 {
            return Ok(self.finish(cleaner));
        }
        let least_gain = match self.goal {
            Goal::OneVictim => 0,
            Goal::UntilClean => cleaner.config().manual_gain_permille,
        };
        if !cleaner.start_some(least_gain, room, Caller::Manual, self.victims_left) {
            return Ok(self.finish(cleaner));
        }
        let situation = Situation { caller: Caller::Manual, room, idle: Duration::ZERO };
        let outcome = match cleaner.poll(&situation) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.victims_left -= 1;
                self.report.victims += 1;
                self.report.failed += 1;
                return Err(error);
            }
        };
        match outcome.work {
            Work::Chunk(progress) => self.add(&progress),
            Work::Victim(report) => self.add_victim(&report),
            Work::Starved if outcome.emptied == 0 || self.starved => {
                cleaner.abandon();
                // The same victim would be chosen again, and again in vain.
                self.finishing = true;
                return Err(CleanError::NoSpace);
            }
            Work::Starved => {
                self.starved = true;
                return Ok(CampaignStep::Checkpoint);
            }
            Work::Nothing | Work::NoVictim => return Ok(self.finish(cleaner)),
        }
        Ok(if outcome.checkpoint { CampaignStep::Checkpoint } else { CampaignStep::More })
    }

    /// The last checkpoint makes what was cleaned free.
    fn finish<S: LogSpace, M: Mover>(&mut self, cleaner: &Cleaner<S, M>) -> CampaignStep {
        self.finishing = true;
        if cleaner.emptied() > 0 { CampaignStep::Checkpoint } else { CampaignStep::Done }
    }

    fn add(&mut self, progress: &Progress) {
        self.report.moved += u64::from(progress.moved) * BLOCK_BYTES;
        self.report.lost += u64::from(progress.lost) * BLOCK_BYTES;
        self.report.offloaded += u64::from(progress.offloaded) * BLOCK_BYTES;
        self.report.by_host += u64::from(progress.by_host) * BLOCK_BYTES;
    }

    fn add_victim(&mut self, report: &VictimReport) {
        self.add(&report.last);
        self.victims_left -= 1;
        self.report.victims += 1;
        match report.end {
            VictimEnd::Emptied => self.report.emptied += 1,
            VictimEnd::Unmovable => self.report.unmovable += 1,
            VictimEnd::GaveUp | VictimEnd::Abandoned => self.report.failed += 1,
        }
    }
}

impl<S: LogSpace, M: Mover> Cleaner<S, M> {
    /// Cleans one victim. `checkpoint` makes a checkpoint and returns how many zones it freed; `room` as in [`Situation`].
    ///
    /// # Errors
    /// As [`Campaign::step`]; what was done until then stays done.
    pub fn clean_one_victim(&mut self, room: impl Fn() -> Room, checkpoint: impl FnMut() -> Result<u32>) -> Result<CampaignReport> {
        self.drive(Campaign::one_victim(), room, checkpoint)
    }

    /// Cleans until nothing worth cleaning is left; otherwise as [`Cleaner::clean_one_victim`].
    ///
    /// # Errors
    /// As [`Campaign::step`]; what was done until then stays done.
    pub fn until_clean(&mut self, room: impl Fn() -> Room, checkpoint: impl FnMut() -> Result<u32>) -> Result<CampaignReport> {
        self.drive(Campaign::until_clean(), room, checkpoint)
    }

    fn drive(
        &mut self,
        mut campaign: Campaign,
        room: impl Fn() -> Room,
        mut checkpoint: impl FnMut() -> Result<u32>,
    ) -> Result<CampaignReport> {
        loop {
            match campaign.step(self, room())? {
                CampaignStep::More => {}
                CampaignStep::Checkpoint => {
                    let freed = checkpoint()?;
                    self.checkpointed(freed);
                    campaign.checkpointed(freed);
                }
                CampaignStep::Done => return Ok(campaign.report().clone()),
            }
        }
    }
}
