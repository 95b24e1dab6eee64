//! Group coordinators between the partitions of this core and the clients of
//! all cores.
//!
//! A coordinator's appends and reads are pieces of work like any client's,
//! told from those by their numbers; answers go back by mail.

use super::Shard;
use super::event::Effects;
use super::requests::Asker as Client;
use crate::api::{Part, Pending};
use crate::base::pages::PageSlice;
use crate::base::time::{Instant, Now};
use crate::group::request::{Asker, Response};
use crate::group::{Coordinator, Effect, OFFSETS_TOPIC};
use crate::mesh::Mail;
use crate::metadata::image::{Change, Delta, Topic};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, PartitionIndex, TopicPartition};
use crate::replica::work::{
    FetchItem, FetchOutcome, FetchWork, Origin, ProduceItem, ProduceOutcome, ProduceWork, Work,
};
use crate::rsm::{READ_BYTES, ReadResult};
use crate::wire::small::Bytes;

/// Numbers of a coordinator's work have this bit; requests are not that many.
const OURS: u64 = 1 << 63;

/// Coordinators wait for their partition as long as it takes: what a batch comes
/// to has to be known before it is answered for.
const NEVER: Instant = Instant::from_nanos(u64::MAX);

/// Size of the pages that batches are put into, one after another.
const BATCH_PAGE: usize = 64 << 10;

/// Whether a piece of work was a coordinator's.
pub(super) fn is_ours(origin: Origin) -> bool {
    origin.id & OURS != 0
}

/// Gives a finished piece of work to the coordinators that asked for it.
pub(super) fn take(groups: &mut Coordinator, now: Now, origin: Origin, work: Work) {
    match work {
        Work::Produce(work) => {
            for item in &work.items {
                groups.written(now, origin.id & !OURS, item.outcome.error);
            }
        }
        Work::Fetch(work) => {
            for item in work.items {
                let FetchOutcome { error, high_watermark, log_start_offset, records } =
                    item.outcome;
                let bytes = Bytes::from(records.to_vec());
                let result = ReadResult { error, log_start_offset, high_watermark, bytes };
                groups.read(now, item.topic_partition.partition, result);
            }
        }
        other => unreachable!("coordinators write and read, and do no {other:?}"),
    }
}

impl Shard {
    /// Seeds what has to differ from run to run, from the time of the start.
    pub(super) fn seed_groups(&mut self, now: Now) {
        let time = (now.unix.0 as u64).rotate_left(20) ^ now.instant.as_nanos();
        self.groups.seed(time ^ u64::from(self.core.0).rotate_right(16));
    }

    /// Sends the parts of a request to the cores whose groups it is about.
    pub(super) fn ask_groups(
        &mut self,
        client: Client,
        pending: Pending,
        parts: Vec<Part>,
        effects: &mut Effects,
    ) {
        let id = self.remember(client, pending);
        let in_flight = self.in_flight.get_mut(id as u32).expect("just inserted");
        in_flight.out.extend(parts.iter().map(|(core, ..)| *core));
        let origin = self.origin(id);
        for (core, place, request) in parts {
            let asker = Asker { origin, place };
            let mail = Mail::Group { asker, request: Box::new(request) };
            if let Some(mail) = self.credit.request(core, mail) {
                self.mail(core, mail, effects);
            }
        }
    }

    /// A coordinator answered a part of a request.
    pub(super) fn on_group_answer(
        &mut self,
        from: CoreId,
        asker: Asker,
        response: Response,
        effects: &mut Effects,
    ) {
        let key = asker.origin.id as u32;
        let in_flight = self.in_flight.get_mut(key).filter(|row| row.id == asker.origin.id);
        let in_flight = in_flight.expect("a row stays until all its parts are back");
        let out = in_flight.out.iter().position(|core| *core == from);
        in_flight.out.swap_remove(out.expect("a part is answered once, where it was sent"));
        in_flight.pending.fill_group(asker.place, response);
        if in_flight.out.is_empty() {
            let mut done = self.in_flight.remove(key).expect("seen above");
            self.pools.cores.push(std::mem::take(&mut done.out));
            let Self { context, pools, answer, .. } = self;
            let result = done.pending.respond(context, pools, answer);
            self.finish((done.connection, done.generation, done.place), result, effects);
        }
    }

    /// Does what the coordinators want done. True if that was anything.
    pub(super) fn serve_groups(&mut self, now: Now, effects: &mut Effects) -> bool {
        let todo: Vec<Effect> = self.groups.todo().collect();
        let any = !todo.is_empty();
        for effect in todo {
            match effect {
                Effect::Answer(asker, response) => {
                    let mail = Mail::GroupAnswer { asker, response: Box::new(response) };
                    self.mail(asker.origin.core, mail, effects);
                }
                Effect::Parked(asker) => self.mail(asker.origin.core, Mail::GroupParked, effects),
                Effect::Late(asker, response) => {
                    let mail = Mail::GroupLate { asker, response: Box::new(response) };
                    if let Some(mail) = self.credit.request(asker.origin.core, mail) {
                        self.mail(asker.origin.core, mail, effects);
                    }
                }
                Effect::Append(partition, number, batch) => {
                    let topic_partition = self.offsets_partition(partition);
                    match (topic_partition, self.put_batch(&batch)) {
                        (Some(topic_partition), Some(records)) => {
                            let item = ProduceItem {
                                topic_partition,
                                place: 0,
                                records: Some(records),
                                outcome: ProduceOutcome::error(ErrorCode::None, None),
                            };
                            let items = vec![item];
                            let work =
                                Work::Produce(ProduceWork { acks: -1, deadline: NEVER, items });
                            self.submit_ours(now, number, work, effects);
                        }
                        (None, _) => {
                            self.groups.written(now, number, ErrorCode::UnknownTopicOrPartition);
                        }
                        (_, None) => {
                            tracing::warn!("no memory left for a batch of a coordinator");
                            self.groups.written(now, number, ErrorCode::NotEnoughReplicas);
                        }
                    }
                }
                Effect::Read(partition, fetch_offset) => {
                    let Some(topic_partition) = self.offsets_partition(partition) else { continue };
                    let item = FetchItem {
                        topic_partition,
                        place: 0,
                        fetch_offset,
                        max_bytes: READ_BYTES,
                        current_leader_epoch: -1,
                        outcome: FetchOutcome::default(),
                    };
                    // Without a minimum it is answered as soon as the log is there.
                    let work = FetchWork {
                        min_bytes: 0,
                        deadline: NEVER,
                        max_bytes: READ_BYTES,
                        items: vec![item],
                    };
                    self.submit_ours(now, 0, Work::Fetch(work), effects);
                }
            }
        }
        any
    }

    fn submit_ours(&mut self, now: Now, number: u64, work: Work, effects: &mut Effects) {
        let origin = self.origin(OURS | number);
        self.replicas.submit(now, origin, work, &mut effects.disk);
    }

    fn offsets_partition(&self, partition: PartitionIndex) -> Option<TopicPartition> {
        let topic = self.context.image.topic(OFFSETS_TOPIC)?;
        Some(TopicPartition { topic: topic.id, partition })
    }

    /// The batch in a page.
    fn put_batch(&mut self, batch: &[u8]) -> Option<PageSlice> {
        let spare = self.batch_page.as_ref().map_or(0, |page| page.spare_len());
        if spare < batch.len() {
            let again = self
                .batch_page
                .as_mut()
                .is_some_and(|page| page.capacity() >= batch.len() && page.reset());
            if !again {
                self.batch_page = Some(self.answer_pages.allocate(batch.len().max(BATCH_PAGE))?);
            }
        }
        let page = self.batch_page.as_mut().expect("made above");
        let start = page.len();
        page.put(batch);
        Some(page.slice(start..start + batch.len()))
    }

    /// Coordinators assign the topics of the new image from now on.
    pub(super) fn groups_take_topics(&mut self, delta: &Delta) {
        let is_topic = |change: &Change| {
            matches!(
                change,
                Change::TopicCreated(_) | Change::TopicChanged(_) | Change::TopicDeleted(_)
            )
        };
        if delta.changes.iter().any(is_topic) {
            self.groups.set_topics(self.context.image.clone());
        }
    }

    /// A topic is deleted: offsets of its partitions mean nothing any more, and
    /// groups that lived in them are gone.
    pub(super) fn groups_lose_topic(&mut self, now: Now, topic: &Topic) {
        if &*topic.name == OFFSETS_TOPIC {
            for index in 0..topic.partitions.len() as i32 {
                self.groups.remove(now, PartitionIndex(index));
            }
        } else {
            self.groups.topic_deleted(now, &topic.name);
        }
    }
}
