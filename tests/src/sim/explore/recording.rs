//! One sequence, carried out on a volume and on the model, with everything that the devices did.

use super::ace::Sequence;
use super::kind::{Base, Hands, VolumeKind, mount_options, open};
use crate::sim::crash::parts_of_a_copy;
use crate::sim::model::{Id, Kind, Model, Refusal};
use crate::sim::operation::Operation;
use crate::sim::subject::{Answer, Subject, observe};
use crate::sim::world::refusal_of;
use fs::volume::Volume;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zns::sim::{By, Deed, Lie, SimMedium, Step, Still, Tape};

/// An operation on the tape.
pub struct Mark {
    /// Which operation.
    pub name: &'static str,
    /// Steps of the devices until it ended.
    pub end: usize,
    /// States of the model that may be found, by their digests, while it was under way.
    pub allowed: Vec<u64>,
    /// The same once it had ended.
    pub allowed_after: Vec<u64>,
    /// Its end promised something.
    pub is_barrier: bool,
}

/// See the module.
pub struct Recording {
    /// On what.
    pub kind: VolumeKind,
    /// What the devices did.
    pub steps: Vec<Step>,
    /// The operations; the first one is the mount.
    pub marks: Vec<Mark>,
    history: Vec<Model>,
    /// Roles of zones: device and zone.
    roles: BTreeMap<(u8, u32), String>,
    /// Devices that are files.
    files: Vec<bool>,
}

/// A run under way.
struct Run {
    media: Vec<SimMedium>,
    tape: Arc<Tape>,
    hands: Hands,
    subject: Option<Subject>,
    /// Files without a name that a program still holds open: the model has them no more.
    held: BTreeSet<Id>,
    history: Vec<Model>,
    /// Parts of copies that may be found, with the state that the whole copy came to.
    parts: Vec<(usize, Vec<u64>)>,
    floor: usize,
    mounts: u8,
    roles: BTreeMap<(u8, u32), String>,
}

impl Recording {
    /// Carries out a sequence.
    ///
    /// # Errors
    /// An operation that does not do what the model does.
    pub fn of(base: &Base, sequence: &Sequence, lie: Lie) -> Result<Self, String> {
        let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
        let tape = Tape::new(lie);
        for (device, medium) in (0..).zip(&media) {
            medium.record(&tape, device);
        }
        let mut run = Run {
            media,
            tape,
            hands: Hands::at(base.now),
            subject: None,
            held: BTreeSet::new(),
            history: vec![base.model.clone()],
            parts: Vec::new(),
            floor: 0,
            mounts: 10,
            roles: BTreeMap::new(),
        };
        run.mount()?;
        let mut marks = vec![run.mark("mount", 0, false)];
        for op in sequence {
            let before = run.floor;
            run.step(op).map_err(|what| format!("{}: {what}", op.name()))?;
            run.note_roles();
            marks.push(run.mark(op.name(), before, op.is_barrier()));
        }
        // The image of a run that goes on writes its table when it is closed.
        run.tape.stop();
        let files = run.media.iter().map(|medium| matches!(medium, SimMedium::File(_))).collect();
        run.violations()?;
        Ok(Self { kind: base.kind, steps: run.tape.steps(), marks, history: run.history, roles: run.roles, files })
    }

    /// What a step is, for people.
    pub fn name(&self, step: &Step) -> String {
        let file = self.files[usize::from(step.device)];
        // A file has a MiB of headers and tables before its zones of a MiB.
        let role = |zone: u32| match (file, zone) {
            (true, 0) => "zone table",
            (true, _) => self.roles.get(&(step.device, zone - 1)).map_or("", String::as_str),
            (false, _) => self.roles.get(&(step.device, zone)).map_or("", String::as_str),
        };
        match &step.deed {
            Deed::Write { zone, by: By::Host, .. } => format!("write({})", role(*zone)),
            Deed::Write { zone, by: By::Copy, .. } => format!("copy({})", role(*zone)),
            Deed::Hole { .. } | Deed::Reset { .. } => "reset".into(),
            Deed::Finish { .. } => "finish".into(),
            Deed::Flush => "flush".into(),
        }
    }

    /// The newest of these states of the model.
    pub fn model_of(&self, allowed: &[u64]) -> Option<&Model> {
        self.history.iter().rev().find(|model| allowed.contains(&model.digest()))
    }

    /// Which state of the run this is.
    pub fn is_older(&self, digest: u64) -> Option<usize> {
        self.history.iter().position(|model| model.digest() == digest)
    }
}

impl Run {
    fn volume(&self) -> Arc<Volume> {
        self.subject.as_ref().expect("mounted").volume().clone()
    }

    fn mount(&mut self) -> Result<(), String> {
        self.mounts += 1;
        let devices = open(&self.media, false).map_err(|error| format!("the devices cannot be opened: {error}"))?;
        let volume =
            Volume::open(devices, mount_options(&self.hands, self.mounts)).map_err(|error| format!("the mount failed: {error}"))?;
        let found = observe(&volume)?;
        let present = self.history.last().expect("there is a state");
        if !found.errors.is_empty() || found.model.digest() != present.digest() {
            return Err(format!("after a clean unmount: {:?} {:?}", present.differences(&found.model), found.errors));
        }
        self.subject = Some(Subject::new(volume, found.inos));
        self.note_roles();
        Ok(())
    }

    fn note_roles(&mut self) {
        let zones = self.volume().zones();
        self.roles.extend(zones.into_iter().filter(|zone| !zone.role.is_empty()).map(|zone| ((zone.device, zone.zone), zone.role)));
    }

    fn step(&mut self, op: &Operation) -> Result<(), String> {
        let now = self.hands.tick();
        if *op == Operation::Remount {
            let volume = self.volume();
            self.subject = None;
            self.held.clear();
            volume.shutdown().map_err(|error| format!("unmounting failed: {error}"))?;
            drop(volume);
            self.floor = self.history.len() - 1;
            return self.mount();
        }
        let before = self.history.last().expect("there is a state").clone();
        let op = &at_the_end(op, &before);
        if let Operation::Fsync { id } = op
            && !self.subject.as_ref().is_some_and(|subject| subject.knows(*id))
        {
            // A file that was gone before the last mount: there is nothing to ask fsync for, and nothing is promised.
            return Ok(());
        }
        let mut after = before.clone();
        let expected = op.apply(&mut after, now);
        let answer = self.subject.as_mut().expect("mounted").apply(op);
        match (answer, expected) {
            (Ok(answer), Ok(())) => {
                if let (Operation::CopyRange { from, len, .. }, Answer::Copied(done)) = (op, &answer) {
                    let there = size_of(&before, from.0).saturating_sub(from.1).min(*len);
                    if *done != there {
                        return Err(format!("{done} of {there} bytes were copied"));
                    }
                }
                if op.changes() {
                    self.history.push(after);
                    let parts: Vec<u64> = parts_of_a_copy(&before, op, now).map(|model| model.digest()).collect();
                    self.parts.push((self.history.len() - 1, parts));
                }
                if let Operation::Unlink { parent, name, hold: true } = op {
                    let id = before.entries(*parent).and_then(|entries| entries.get(name));
                    self.held.extend(id.filter(|id| self.history.last().is_some_and(|now| now.node(**id).is_none())));
                }
                if op.is_barrier() {
                    self.floor = self.history.len() - 1;
                }
                Ok(())
            }
            // Its content is nobody's but the holder's.
            (Ok(_), Err(Refusal::NotFound)) if op.writes_to().is_some_and(|id| self.held.contains(&id)) => {
                if op.is_barrier() {
                    self.floor = self.history.len() - 1;
                }
                Ok(())
            }
            (Err(error), Err(refusal)) if refusal_of(&error) == Some(refusal) => Ok(()),
            (Ok(_), Err(refusal)) => Err(format!("accepted, though it must be refused: {refusal:?}")),
            (Err(error), expected) => Err(format!("failed with {error:?}, expected {expected:?}")),
        }
    }

    /// The states from `floor` on, and what of copies may be found in part.
    fn allowed(&self, floor: usize) -> Vec<u64> {
        let parts = self.parts.iter().filter(|(state, _)| *state > floor).flat_map(|(_, parts)| parts.iter().copied());
        self.history[floor..].iter().map(Model::digest).chain(parts).collect()
    }

    fn mark(&self, name: &'static str, before: usize, is_barrier: bool) -> Mark {
        Mark { name, end: self.tape.len(), allowed: self.allowed(before), allowed_after: self.allowed(self.floor), is_barrier }
    }

    fn violations(&self) -> Result<(), String> {
        let drives = self.media.iter().filter_map(|medium| match medium {
            SimMedium::Drive(drive) => Some(drive),
            SimMedium::File(_) => None,
        });
        match drives.flat_map(|drive| drive.violations()).next() {
            Some(violation) => Err(format!("a rule of the drive was broken: {violation:?}")),
            None => Ok(()),
        }
    }
}

fn size_of(model: &Model, id: Id) -> u64 {
    match model.node(id).map(|node| &node.kind) {
        Some(Kind::File { size, .. }) => *size,
        _ => 0,
    }
}

/// Where an append goes depends on what is there.
fn at_the_end(op: &Operation, model: &Model) -> Operation {
    match op {
        Operation::Write { id, len, stamp, append: true, sync, .. } => {
            Operation::Write { id: *id, offset: size_of(model, *id), len: *len, stamp: *stamp, append: true, sync: *sync }
        }
        op => op.clone(),
    }
}
