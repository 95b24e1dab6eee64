//! What each core of this broker has been told of the metadata, and what it has
//! applied.
//!
//! A core gets every change in order. One that has too many unapplied gets none
//! until it caught up, and then all it missed as one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::limits::PUBLICATIONS_OPEN_MAX;
use crate::metadata::image::{Delta, Image};
use crate::metadata::link::ToShard;
use crate::model::ids::{CoreId, MetadataOffset};

/// All cores.
#[derive(Debug)]
pub struct Publications {
    cores: Vec<Core>,
    /// What a core that was told nothing has: nothing.
    nothing: Image,
}

#[derive(Debug, Default)]
struct Core {
    /// The newest image it was sent.
    sent: Option<Arc<Image>>,
    /// Positions it was sent and has not applied.
    open: VecDeque<MetadataOffset>,
    applied: MetadataOffset,
    /// Once it has stopped: whether cleanly.
    stopped: Option<bool>,
}

impl Publications {
    /// `cores` cores that know nothing. `nothing` is the image they know.
    pub fn new(cores: u16, nothing: Image) -> Self {
        Self { cores: (0..cores).map(|_| Core::default()).collect(), nothing }
    }

    /// The numbers of all cores.
    pub fn cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.cores.len() as u16).map(CoreId)
    }

    /// Sends `image` to all cores that are not too far behind. `delta` leads to
    /// it from the image before.
    pub fn publish(
        &mut self,
        before: MetadataOffset,
        image: &Arc<Image>,
        delta: Delta,
        out: &mut Vec<(CoreId, ToShard)>,
    ) {
        let delta = Arc::new(delta);
        for (id, core) in (0..).map(CoreId).zip(&mut self.cores) {
            let next = core.sent.as_ref().is_some_and(|sent| sent.offset == before);
            if next && core.has_room() {
                core.send(id, image, delta.clone(), out);
            } else {
                core.catch_up(id, image, &self.nothing, out);
            }
        }
    }

    /// Notes that `core` has applied up to `offset`, and sends it what it missed.
    ///
    /// # Panics
    /// If it was not sent that.
    pub fn applied(
        &mut self,
        core: CoreId,
        offset: MetadataOffset,
        image: &Arc<Image>,
        out: &mut Vec<(CoreId, ToShard)>,
    ) {
        let state = &mut self.cores[usize::from(core.0)];
        let sent = state.sent.as_ref().map_or(MetadataOffset(0), |sent| sent.offset);
        assert!(offset <= sent, "core {core} applied {offset:?} and was sent {sent:?}");
        state.applied = state.applied.max(offset);
        while state.open.front().is_some_and(|open| *open <= offset) {
            state.open.pop_front();
        }
        // Before the first image there is nothing to catch up with.
        if state.sent.is_some() {
            state.catch_up(core, image, &self.nothing, out);
        }
    }

    /// Notes that `core` has stopped. What it says first counts: that its thread
    /// is gone afterwards is no news.
    pub fn stopped(&mut self, core: CoreId, clean: bool) {
        self.cores[usize::from(core.0)].stopped.get_or_insert(clean);
    }

    /// Whether `core` still listens.
    pub fn is_running(&self, core: CoreId) -> bool {
        self.cores[usize::from(core.0)].stopped.is_none()
    }

    /// If all cores have stopped: whether all did so cleanly.
    pub fn all_stopped(&self) -> Option<bool> {
        let stopped: Option<Vec<bool>> = self.cores.iter().map(|core| core.stopped).collect();
        Some(stopped?.into_iter().all(|clean| clean))
    }

    /// What every running core has applied; nothing limits it if none runs.
    pub fn applied_everywhere(&self) -> MetadataOffset {
        let running = self.cores.iter().filter(|core| core.stopped.is_none());
        running.map(|core| core.applied).min().unwrap_or(MetadataOffset(u64::MAX))
    }
}

impl Core {
    fn has_room(&self) -> bool {
        self.stopped.is_none() && self.open.len() < PUBLICATIONS_OPEN_MAX
    }

    fn catch_up(
        &mut self,
        id: CoreId,
        image: &Arc<Image>,
        nothing: &Image,
        out: &mut Vec<(CoreId, ToShard)>,
    ) {
        let sent = self.sent.as_deref().unwrap_or(nothing);
        if sent.offset < image.offset && self.has_room() {
            let delta = Arc::new(image.changes_since(sent));
            self.send(id, image, delta, out);
        }
    }

    fn send(
        &mut self,
        id: CoreId,
        image: &Arc<Image>,
        delta: Arc<Delta>,
        out: &mut Vec<(CoreId, ToShard)>,
    ) {
        self.sent = Some(image.clone());
        self.open.push_back(image.offset);
        out.push((id, ToShard::Publish { image: image.clone(), delta }));
    }
}
