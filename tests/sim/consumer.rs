//! Consumers: fetches of all shapes, mostly at the end of the log, sometimes
//! far back or in the middle of a batch, with or without a session.

use std::collections::{BTreeMap, BTreeSet};

use corelane::base::rng::Rng;
use corelane::model::batch::BatchHeader;
use corelane::wire::small::uuid;
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::{FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse};
use kafka_wire_core::StrBytes;

use crate::client::{Asked, Link, Request, Shared};
use crate::file::pick;
use crate::model::{TIMESTAMP, Tp, name};
use crate::producer::CORRUPT_MESSAGE;
use crate::queue::MS;
use crate::session::{Session, SessionUse};
use crate::{session, trace, wire};

const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Errors that pass: unknown topic, not leader, storage, unknown topic id.
pub const PASSING: &[i16] = &[3, 6, 56, 100];

/// What was asked of one partition.
#[derive(Debug)]
pub struct FetchAsked {
    pub tp: Tp,
    pub offset: i64,
    /// What the high watermark must be at least.
    pub floor: i64,
    /// What the start of the log must be at least.
    pub start: i64,
}

/// What came of one partition.
pub struct Fetched {
    pub tp: Tp,
    pub offset: i64,
    pub error: i16,
    pub high_watermark: i64,
    /// Where the log starts, from version 5 on.
    pub start: Option<i64>,
    /// Attempts and headers of whole batches, in order.
    pub batches: Vec<(u64, BatchHeader)>,
}

/// What a fetch asks for.
pub struct Ask<'a> {
    pub version: i16,
    /// The partitions that it names, and from where.
    pub named: &'a [(Tp, i64)],
    /// The partitions that its answer is about.
    pub read: &'a [(Tp, i64)],
    pub shape: Shape,
    pub uses: SessionUse,
    /// Session id and epoch.
    pub session: (i32, i32),
    /// What the session forgets.
    pub gone: &'a BTreeSet<Tp>,
}

impl<'a> Ask<'a> {
    /// A fetch without a session.
    pub fn whole(version: i16, named: &'a [(Tp, i64)], shape: Shape) -> Self {
        static NOTHING: BTreeSet<Tp> = BTreeSet::new();
        let (uses, session) = (SessionUse::None, (0, -1));
        Self { version, named, read: named, shape, uses, session, gone: &NOTHING }
    }
}

/// Sends a fetch.
pub fn fetch(link: &mut Link, shared: &mut Shared, ask: &Ask<'_>) {
    let (version, shape) = (ask.version, ask.shape);
    let mut request = FetchRequest::default();
    request.max_wait_ms = shape.max_wait_ms;
    request.min_bytes = shape.min_bytes;
    request.max_bytes = shape.max_bytes;
    if version >= 7 {
        (request.session_id, request.session_epoch) = ask.session;
        session::forget(&mut request, shared, version, ask.gone);
    }
    for (tp, offset) in ask.named {
        let mut partition = FetchPartition::default();
        partition.partition = tp.1;
        partition.fetch_offset = *offset;
        partition.partition_max_bytes = shape.partition_bytes;
        let topic = &shared.model.topics[&tp.0];
        let known = request.topics.iter_mut().find(|row| {
            if version >= 13 {
                row.topic_id == uuid(tp.0)
            } else {
                row.topic.as_str() == topic.name
            }
        });
        match known {
            Some(row) => row.partitions.push(partition),
            None => {
                let mut row = FetchTopic::default();
                if version >= 13 {
                    row.topic_id = uuid(tp.0);
                } else {
                    row.topic = StrBytes::from(topic.name.as_str());
                }
                row.partitions.push(partition);
                request.topics.push(row);
            }
        }
    }
    let asked = ask.read.iter().map(|(tp, offset)| {
        let (floor, start) = (shared.model.floor(*tp), shared.model.start(*tp));
        FetchAsked { tp: *tp, offset: *offset, floor, start }
    });
    let asked = Asked::Fetch(asked.collect(), ask.uses);
    link.send(shared, &request, version, shape.max_wait_ms as u64 * MS, asked);
}

/// How much a fetch asks for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    pub partition_bytes: i32,
}

/// The answer to a fetch.
pub struct Answered {
    /// Of the whole fetch: its session has ended.
    pub error: i16,
    /// The session that was granted or used, or 0.
    pub session: i32,
    pub rows: Vec<Fetched>,
}

/// Checks the answer to a fetch and takes it apart. Of a fetch in a session what is
/// left out is taken from there.
pub fn fetched(
    shared: &mut Shared,
    request: Request,
    frame: Vec<u8>,
    session: Option<&mut Session>,
) -> Answered {
    let (life, version) = (request.life, request.version);
    let Asked::Fetch(mut asked, uses) = request.asked else {
        panic!("a reader asked {:?}", request.asked)
    };
    let answer: FetchResponse = wire::answer(frame, request.api.api(), request.version);
    let (error, id) = (answer.error_code, answer.session_id);
    let ends = uses != SessionUse::None && session::ENDS.contains(&error);
    assert!(error == 0 || ends, "a fetch was answered with error {error}");
    if error != 0 {
        shared.coverage.one("fetch sessions: refused");
        return Answered { error, session: 0, rows: vec![] };
    }
    let mut all = vec![];
    let mut none_before = true;
    let by_topic = answer.responses.iter();
    let rows = by_topic.flat_map(|topic| topic.partitions.iter().map(move |row| (topic, row)));
    if uses != SessionUse::Incremental {
        assert_eq!(rows.clone().count(), asked.len(), "a row for each partition");
    }
    for (topic, row) in rows {
        let place = match uses {
            SessionUse::Incremental => {
                let found = asked.iter().position(|asked| {
                    let id = asked.tp.0;
                    let same = match version {
                        13.. => uuid(id) == topic.topic_id,
                        _ => shared.model.topics[&id].name == topic.topic.as_str(),
                    };
                    same && asked.tp.1 == row.partition_index
                });
                found.expect("a session's answers are about its partitions, each once")
            }
            // What was answered is taken out from the front.
            _ => 0,
        };
        let FetchAsked { tp, offset, floor, start } = asked.remove(place);
        assert_eq!(row.partition_index, tp.1, "rows in the request's order");
        trace::event("fetched", &[], || {
            let bytes = row.records.as_ref().map_or(0, |records| records.len());
            let (error, end) = (row.error_code, row.high_watermark);
            format!("{bytes} bytes from {offset}, end {end}, error {error} of {}", name(tp))
        });
        let records = row.records.as_ref().map_or(&[][..], |records| &records[..]);
        let mut batches = vec![];
        let tells_start = version >= 5 && [0, OFFSET_OUT_OF_RANGE].contains(&row.error_code);
        let told = tells_start.then_some(row.log_start_offset).filter(|told| *told >= 0);
        if let Some(told) = told.filter(|_| !shared.model.is_dying(tp.0)) {
            shared.model.start_told(tp, told, start);
        }
        if row.error_code == 0 && !shared.model.is_dying(tp.0) {
            assert!(offset >= start, "offset {offset} of {} is deleted and served", name(tp));
            shared.model.high_watermark(tp, row.high_watermark, floor, life);
            let mut rest = records;
            while let Some(header) = BatchHeader::decode(rest) {
                let len = header.total_len().expect("a batch has a length");
                if len > rest.len() {
                    break;
                }
                let (attempt, header) = shared.model.seen(tp, &rest[..len], life);
                let end = header.next_offset();
                assert!(end <= row.high_watermark, "offset {end} of {} is not committed", name(tp));
                let expected =
                    batches.last().map(|(_, last): &(u64, BatchHeader)| last.next_offset());
                match expected {
                    Some(expected) => assert_eq!(header.base_offset, expected, "no gaps"),
                    None => assert!(
                        header.base_offset <= offset && offset < end,
                        "the first batch of {} holds {}..{end} and {offset} was asked for",
                        name(tp),
                        header.base_offset
                    ),
                }
                batches.push((attempt, header));
                shared.coverage.one("batches read");
                rest = &rest[len..];
            }
            let stunted = none_before && !records.is_empty() && batches.is_empty();
            assert!(!stunted, "the first batch of an answer is whole (KIP-74)");
        } else {
            assert!(records.is_empty() || row.error_code == 0, "no records with an error");
        }
        none_before &= records.is_empty();
        let high_watermark = row.high_watermark;
        let error = row.error_code;
        all.push(Fetched { tp, offset, error, high_watermark, start: told, batches });
    }
    if let Some(session) = session {
        for FetchAsked { tp, offset, floor, start } in asked {
            let told = session.told(tp);
            let (high_watermark, told) = told.expect("what was never told is not left out");
            if !shared.model.is_dying(tp.0) {
                shared.model.high_watermark(tp, high_watermark, floor, life);
                shared.model.start_told(tp, told, start);
            }
            shared.coverage.one("fetch sessions: kept back what had not changed");
            let (batches, start) = (vec![], Some(told));
            all.push(Fetched { tp, offset, error: 0, high_watermark, start, batches });
        }
        for row in &all {
            let told = row.start.filter(|_| row.error == 0).map(|at| (row.high_watermark, at));
            session.tell(row.tp, told);
        }
    }
    if all.iter().all(|row| row.error == 0 && row.batches.is_empty()) {
        shared.coverage.one("empty long polls");
    }
    Answered { error, session: id, rows: all }
}

/// A consumer.
pub struct Consumer {
    by_id: bool,
    version: i16,
    positions: BTreeMap<Tp, i64>,
    shape: Shape,
    pause: u64,
    next_at: u64,
    rewinds: u64,
    /// It asks for sessions.
    keeps_session: bool,
    session: Option<Session>,
    /// A session to be ended with the next full fetch.
    old_session: i32,
    connection: u64,
}

impl Consumer {
    pub fn draw(rng: &mut Rng) -> Self {
        let by_id = rng.chance(1, 2);
        let version = if by_id { rng.between(13, 18) } else { rng.between(4, 12) } as i16;
        Self {
            by_id,
            version,
            positions: BTreeMap::new(),
            shape: Shape {
                max_wait_ms: *pick(rng, &[0, 5, 100, 500, 20_000]),
                min_bytes: *pick(rng, &[0, 1, 1, 1, 5_000]),
                max_bytes: *pick(rng, &[1_000, 100_000, 50 << 20]),
                partition_bytes: *pick(rng, &[100, 10_000, 1 << 20]),
            },
            pause: *pick(rng, &[0, MS, 50 * MS]),
            next_at: 0,
            rewinds: *pick(rng, &[0, 5, 100]),
            keeps_session: version >= 7 && rng.chance(2, 3),
            session: None,
            old_session: 0,
            connection: 0,
        }
    }

    /// Partitions that it has not read to the end, with its position and the end.
    pub fn behind(&self, shared: &Shared) -> Vec<(Tp, i64, i64)> {
        let mine = self.targets(shared).into_iter();
        let rows = mine
            .map(|tp| (tp, self.positions.get(&tp).copied().unwrap_or(0), shared.model.floor(tp)));
        rows.filter(|(tp, at, end)| at < end && !shared.model.is_damaged(*tp)).collect()
    }

    fn targets(&self, shared: &Shared) -> Vec<Tp> {
        let living = shared.model.living().into_iter();
        living.filter(|(id, _)| self.by_id || shared.model.topics[id].stable).collect()
    }

    pub fn act(&mut self, link: &mut Link, shared: &mut Shared) -> u64 {
        let now = shared.queue.now();
        if link.open() > 0 {
            return u64::MAX;
        }
        if now < self.next_at {
            return self.next_at;
        }
        let mut targets = self.targets(shared);
        let read_all = shared.quiet && self.behind(shared).is_empty();
        if targets.is_empty() || read_all {
            return now + 20 * MS;
        }
        let mut wanted = vec![];
        for _ in 0..link.rng.between(1, 6).min(targets.len() as u64) {
            let tp = targets.swap_remove(link.rng.below(targets.len() as u64) as usize);
            let position = self.positions.entry(tp).or_insert(0);
            if !shared.calm && self.rewinds > 0 && link.rng.chance(1, self.rewinds) {
                *position = link.rng.between(0, *position as u64) as i64;
            }
            wanted.push((tp, *position));
        }
        // Rows come by topic, in the request's order.
        wanted.sort_unstable();
        if !shared.quiet && link.rng.chance(1, 10) {
            self.list_offsets(link, shared, &wanted);
            return u64::MAX;
        }
        let mut shape = self.shape;
        if shared.quiet {
            // Whoever waits for one partition must not miss another, nor read in sips.
            shape.max_wait_ms = shape.max_wait_ms.min(100);
            shape.partition_bytes = 1 << 20;
            shape.max_bytes = 50 << 20;
            self.pause = 0;
        }
        if self.keeps_session {
            self.fetch_in_session(link, shared, wanted, shape);
        } else {
            fetch(link, shared, &Ask::whole(self.version, &wanted, shape));
        }
        u64::MAX
    }

    /// Asks for a session, or goes on with the one there is; mostly for what it
    /// wants already.
    fn fetch_in_session(
        &mut self,
        link: &mut Link,
        shared: &mut Shared,
        mut wanted: Vec<(Tp, i64)>,
        shape: Shape,
    ) {
        if self.connection != link.generation {
            self.connection = link.generation;
            // What was under way may have changed the session or not.
            if link.rng.chance(2, 3) {
                self.give_up_session();
            } else if let Some(session) = &mut self.session {
                // Not even by chance may it be taken for the next of what was lost.
                session.epoch += 5;
            }
        }
        if link.rng.chance(1, 100) {
            self.give_up_session();
        }
        let living = self.targets(shared);
        let Some(session) = &mut self.session else {
            let ask = Ask {
                uses: SessionUse::New,
                session: (std::mem::take(&mut self.old_session), 0),
                ..Ask::whole(self.version, &wanted, shape)
            };
            return fetch(link, shared, &ask);
        };
        if !link.rng.chance(1, 8) {
            // Who reads to the end reads all of it, now and then.
            let all: Vec<Tp> = session.rows.keys().copied().collect();
            wanted.retain(|(tp, _)| shared.quiet || all.contains(tp));
            let others: Vec<Tp> = all
                .into_iter()
                .filter(|tp| living.contains(tp) && wanted.iter().all(|(other, _)| other != tp))
                .collect();
            wanted.extend(
                others.into_iter().map(|tp| (tp, self.positions.get(&tp).copied().unwrap_or(0))),
            );
        }
        if wanted.is_empty() {
            // It would end the session, which is another thing to say.
            return fetch(link, shared, &Ask::whole(self.version, &[], shape));
        }
        let wanted: BTreeMap<Tp, i64> = wanted.into_iter().collect();
        let (named, gone) = session.change(&wanted);
        let read: Vec<(Tp, i64)> = wanted.into_iter().collect();
        let ask = Ask {
            version: self.version,
            named: &named,
            read: &read,
            shape,
            uses: SessionUse::Incremental,
            session: (session.id, session.epoch),
            gone: &gone,
        };
        shared.coverage.one("fetch sessions: used");
        fetch(link, shared, &ask);
    }

    /// Notes what became of the session.
    fn settle_session(&mut self, shared: &mut Shared, uses: SessionUse, answered: &Answered) {
        match uses {
            SessionUse::None => {}
            _ if answered.error != 0 => self.session = None,
            SessionUse::New if answered.session == 0 => {}
            SessionUse::New => {
                let rows = answered.rows.iter().map(|row| (row.tp, row.offset)).collect();
                let mut session = Session::new(answered.session, rows);
                for row in &answered.rows {
                    let told =
                        row.start.filter(|_| row.error == 0).map(|at| (row.high_watermark, at));
                    session.tell(row.tp, told);
                }
                shared.coverage.one("fetch sessions: granted");
                self.session = Some(session);
            }
            SessionUse::Incremental => {
                let session = self.session.as_mut().expect("it was used");
                assert_eq!(answered.session, session.id, "an answer of another session");
                session.epoch += 1;
            }
        }
    }

    fn give_up_session(&mut self) {
        if let Some(session) = self.session.take() {
            self.old_session = session.id;
        }
    }

    fn list_offsets(&self, link: &mut Link, shared: &mut Shared, wanted: &[(Tp, i64)]) {
        let version = link.rng.between(1, 10) as i16;
        let moment = TIMESTAMP + link.rng.between(0, shared.model.next_attempt()) as i64;
        let timestamp = *pick(&mut link.rng, &[-1, -1, -2, moment, moment]);
        let mut request = ListOffsetsRequest::default();
        let mut asked = vec![];
        for (tp, _) in wanted.iter().filter(|(tp, _)| shared.model.topics[&tp.0].stable) {
            let name = StrBytes::from(shared.model.topics[&tp.0].name.as_str());
            let mut partition = ListOffsetsPartition::default();
            partition.partition_index = tp.1;
            partition.timestamp = timestamp;
            match request.topics.iter_mut().find(|row| row.name == name) {
                Some(row) => row.partitions.push(partition),
                None => {
                    let mut row = ListOffsetsTopic::default();
                    row.name = name;
                    row.partitions.push(partition);
                    request.topics.push(row);
                }
            }
            let floor = match timestamp {
                -2 => shared.model.start(*tp),
                _ => shared.model.floor(*tp),
            };
            asked.push((*tp, timestamp, floor));
        }
        link.send(shared, &request, version, 0, Asked::ListOffsets(asked));
    }

    pub fn answered(
        &mut self,
        link: &mut Link,
        shared: &mut Shared,
        request: Request,
        frame: Vec<u8>,
    ) {
        self.next_at = shared.queue.now() + link.rng.between(0, self.pause);
        if let Asked::ListOffsets(asked) = request.asked {
            let answer: ListOffsetsResponse =
                wire::answer(frame, request.api.api(), request.version);
            let rows = answer.topics.iter().flat_map(|topic| &topic.partitions);
            assert_eq!(rows.clone().count(), asked.len(), "a row for each partition");
            for ((tp, timestamp, floor), row) in asked.into_iter().zip(rows) {
                assert_eq!(row.partition_index, tp.1, "rows in the request's order");
                match (row.error_code, timestamp) {
                    (0, -1) => {
                        shared.model.high_watermark(tp, row.offset, floor, request.life);
                    }
                    (0, -2) => shared.model.start_told(tp, row.offset, floor),
                    (0, moment) => {
                        let found = (row.offset >= 0).then_some((row.offset, row.timestamp));
                        let what =
                            found.map_or("lookups by time: nothing", |_| "lookups by time: found");
                        shared.coverage.one(what);
                        let wanted = moment - TIMESTAMP;
                        shared.model.found_by_time(tp, wanted, found, floor, request.life);
                    }
                    (CORRUPT_MESSAGE, _) if shared.model.is_damaged(tp) => {}
                    (code, _) => assert!(PASSING.contains(&code), "ListOffsets error {code}"),
                }
            }
            return;
        }
        let uses = match &request.asked {
            Asked::Fetch(_, uses) => *uses,
            _ => SessionUse::None,
        };
        let session = self.session.as_mut().filter(|_| uses == SessionUse::Incremental);
        let answered = fetched(shared, request, frame, session);
        if answered.rows.iter().all(|row| row.batches.is_empty()) {
            let idle = if shared.calm { 50 * MS } else { MS / 2 };
            self.next_at = self.next_at.max(shared.queue.now() + idle);
        }
        self.settle_session(shared, uses, &answered);
        for row in answered.rows {
            let position = self.positions.entry(row.tp).or_insert(0);
            match row.error {
                0 => {
                    if let Some((_, last)) = row.batches.last() {
                        *position = last.next_offset();
                    }
                }
                OFFSET_OUT_OF_RANGE => {
                    let strong =
                        shared.model.topics.get(&row.tp.0).is_none_or(|topic| topic.strong);
                    let below = row.start.is_none_or(|start| row.offset < start);
                    let deleted = below && shared.model.may_be_deleted(row.tp, row.offset);
                    assert!(
                        !strong || deleted || shared.model.was_cut(row.tp),
                        "offset {} of {} is out of range",
                        row.offset,
                        name(row.tp)
                    );
                    // Without a start the end is sure to be there.
                    *position = row.start.unwrap_or_else(|| shared.model.floor(row.tp));
                }
                code => {
                    assert!(PASSING.contains(&code), "a fetch was answered with error {code}");
                    self.next_at = shared.queue.now() + 20 * MS;
                }
            }
        }
    }
}
