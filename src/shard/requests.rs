//! Requests of this core's clients: taken up, spread over cores, gathered,
//! answered.

use super::Shard;
use super::event::Effects;
use crate::api::{self, Outcome, Pending};
use crate::base::time::Now;
use crate::connection::Place;
use crate::effect::net::ConnectionId;
use crate::mesh::Mail;
use crate::metadata::command;
use crate::metadata::link::ToController;
use crate::model::ids::CoreId;
use crate::replica::work::{Origin, Work};
use crate::wire::WireError;

/// A request whose answer waits.
#[derive(Debug)]
pub(super) struct InFlight {
    /// Of which this row's number is the lower half.
    pub(super) id: u64,
    pub(super) connection: ConnectionId,
    pub(super) generation: u64,
    pub(super) place: Place,
    pub(super) pending: Pending,
    /// Cores whose piece is still out, once for each piece.
    pub(super) out: Vec<CoreId>,
    /// They were told that it is enough.
    cancelled: bool,
}

impl Shard {
    /// Takes up the requests of a connection that are here and may be taken.
    pub(super) fn take_requests(&mut self, now: Now, id: ConnectionId, effects: &mut Effects) {
        let request_max = self.request_max;
        while !self.is_exhausted()
            && let Some(Some(connection)) = self.connections.get_mut(id.0 as usize)
        {
            let frame = match connection.next_frame(request_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => return self.refuse(id, &error, effects),
            };
            connection.note_progress(now.instant);
            let api = frame.first_chunk().map_or(-1, |key| i16::from_be_bytes(*key));
            let place = connection.take_place(api, now.instant);
            let generation = connection.generation();
            let peer = connection.peer();
            let Self { context, producer_ids, pools, answer, .. } = self;
            let outcome = api::request(context, now, peer, &frame, producer_ids, pools, answer);
            drop(frame);
            match outcome {
                Ok(Outcome::Done) => self.answer(id, generation, place, effects),
                Ok(Outcome::Work(pending, parts)) => {
                    self.spread((id, generation, place), pending, parts, effects);
                }
                Ok(Outcome::Group(pending, parts)) => {
                    self.ask_groups((id, generation, place), pending, parts, effects);
                }
                Ok(Outcome::Command(pending, command)) => {
                    let key = self.remember((id, generation, place), pending);
                    let core = self.core;
                    self.commands += 1;
                    effects.control.push(ToController::Command { core, id: key, command });
                }
                Err(error) => return self.refuse(id, &error, effects),
            }
        }
    }

    /// Closes a connection whose bytes make no sense.
    fn refuse(&mut self, id: ConnectionId, error: &WireError, effects: &mut Effects) {
        tracing::info!("closing a connection: {error}");
        self.tally.refused();
        self.answer.clear();
        self.close(id, effects);
    }

    /// Keeps a pending answer; returns its number.
    pub(super) fn remember(
        &mut self,
        (connection, generation, place): Asker,
        pending: Pending,
    ) -> u64 {
        self.next_request += 1;
        let key = self.in_flight.insert(InFlight {
            id: 0,
            connection,
            generation,
            place,
            pending,
            out: self.pools.cores.pop().unwrap_or_default(),
            cancelled: false,
        });
        let id = (self.next_request << 32) | u64::from(key);
        self.in_flight.get_mut(key).expect("just inserted").id = id;
        id
    }

    /// Sends the pieces of a request to the cores that own its partitions.
    fn spread(
        &mut self,
        asker: Asker,
        pending: Pending,
        mut parts: Vec<(CoreId, Work)>,
        effects: &mut Effects,
    ) {
        let id = self.remember(asker, pending);
        let in_flight = self.in_flight.get_mut(id as u32).expect("just inserted");
        in_flight.out.extend(parts.iter().map(|(core, _)| *core));
        let origin = self.origin(id);
        for (core, work) in parts.drain(..) {
            let mail = Mail::Request { origin, work };
            if let Some(mail) = self.credit.request(core, mail) {
                self.mail(core, mail, effects);
            }
        }
        self.pools.give_parts(parts);
    }

    /// A piece came back.
    pub(super) fn on_work(
        &mut self,
        from: CoreId,
        origin: Origin,
        work: Work,
        effects: &mut Effects,
    ) {
        let key = origin.id as u32;
        let in_flight = self.in_flight.get_mut(key).filter(|row| row.id == origin.id);
        let in_flight = in_flight.expect("a row stays until all its pieces are back");
        in_flight.out.retain(|core| *core != from);
        in_flight.pending.fill(work, &mut self.pools);
        if in_flight.out.is_empty() {
            let mut done = self.in_flight.remove(key).expect("seen above");
            self.pools.cores.push(std::mem::take(&mut done.out));
            let Self { context, pools, answer, .. } = self;
            let result = done.pending.respond(context, pools, answer);
            self.finish((done.connection, done.generation, done.place), result, effects);
        } else if in_flight.pending.is_enough() && !in_flight.cancelled {
            in_flight.cancelled = true;
            let out = std::mem::take(&mut in_flight.out);
            for core in &out {
                self.cancel(*core, origin, effects);
            }
            self.in_flight.get_mut(key).expect("seen above").out = out;
        }
    }

    /// Ends the long polls of a connection whose client sends no more, or has gone:
    /// they are answered with what there is.
    pub(super) fn end_polls(&mut self, id: ConnectionId, effects: &mut Effects) {
        let generation = self.connection(id).generation();
        let mut ended = vec![];
        for (_, row) in self.in_flight.iter_mut() {
            let polls = (row.connection, row.generation) == (id, generation)
                && matches!(row.pending, Pending::Fetch(_));
            if polls && !std::mem::replace(&mut row.cancelled, true) {
                ended.extend(row.out.iter().map(|core| (*core, row.id)));
            }
        }
        for (core, id) in ended {
            self.cancel(core, self.origin(id), effects);
        }
    }

    fn cancel(&mut self, core: CoreId, origin: Origin, effects: &mut Effects) {
        if self.credit.cancels(core, origin) {
            self.mail(core, Mail::CancelFetch { origin }, effects);
        }
    }

    /// The controller answered a command.
    pub(super) fn on_answer(&mut self, id: u64, said: command::Answer, effects: &mut Effects) {
        let key = id as u32;
        let known = self.in_flight.get(key).is_some_and(|row| row.id == id);
        assert!(known, "a command is answered once");
        if self.is_exhausted() {
            self.all_dirty();
        }
        self.commands -= 1;
        let done = self.in_flight.remove(key).expect("seen above");
        let Self { context, producer_ids, answer, .. } = self;
        let result = done.pending.respond_with(context, said, producer_ids, answer);
        self.finish((done.connection, done.generation, done.place), result, effects);
    }

    /// Hands over an encoded answer, or closes the connection.
    pub(super) fn finish(
        &mut self,
        asker: Asker,
        result: Result<(), WireError>,
        effects: &mut Effects,
    ) {
        let (id, generation, place) = asker;
        match result {
            Ok(()) => self.answer(id, generation, place, effects),
            Err(error) => {
                self.answer.clear();
                let there = self.connections.get(id.0 as usize).and_then(Option::as_ref);
                if there.is_some_and(|connection| connection.generation() == generation) {
                    self.refuse(id, &error, effects);
                }
            }
        }
    }

    /// Puts the encoded answer into its place in the connection's order.
    fn answer(&mut self, id: ConnectionId, generation: u64, place: Place, effects: &mut Effects) {
        let Self { connections, answer, answer_pages, pools, dirty, tally, .. } = self;
        let connection = connections
            .get_mut(id.0 as usize)
            .and_then(Option::as_mut)
            .filter(|connection| connection.generation() == generation && !connection.is_closing());
        let Some(connection) = connection else {
            return answer.clear(); // The client is gone.
        };
        let mut rope = pools.ropes.pop().unwrap_or_default();
        match answer.finish(&mut rope, &mut pools.ropes, answer_pages) {
            Ok(()) => {
                tally.answered(connection.taken(place));
                connection.answer(place, rope, &mut pools.ropes);
                dirty.push(id);
            }
            Err(_) => {
                tracing::warn!("closing a connection: no memory left for answers");
                tally.refused();
                self.close(id, effects);
            }
        }
    }
}

/// Whose request it is: connection, its generation, the place in its order.
pub(super) type Asker = (ConnectionId, u64, Place);
