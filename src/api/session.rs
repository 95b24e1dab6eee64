//! Fetch sessions (KIP-227): what a client wants is remembered, so that its
//! requests name changes only and answers leave out what has not changed.
//!
//! Rules: `FetchSession.java`, `FetchManager.java`. A session belongs to the core
//! that granted it, which its id tells. A request that comes through another
//! core is told FETCH_SESSION_ID_NOT_FOUND, as if the session had been evicted,
//! and the client asks in full: clients keep to one connection per broker, so
//! that happens after a reconnect at most.
//!
//! ```text
//! full request --answer--> epoch 1 --request 1--> epoch 2 ... i32::MAX --> 1
//!     any full request of its id, eviction, growth beyond the bound --> gone
//! ```
//!
//! Bounded by slots and by bytes: when there is no room, a session that was not
//! used for two minutes goes, then a smaller one that is older than that;
//! otherwise none is granted, which is the session id 0.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::limits::{FETCH_SESSIONS_BYTES_MAX, REQUEST_PARTITIONS_MAX};
use crate::base::rng::Rng;
use crate::base::time::Now;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, PartitionIndex, TopicId};
use crate::replica::work::FetchOutcome;
use crate::wire::TopicKey;
use crate::wire::fetch::{FetchPartition, FetchRequest};

/// First version that names topics by id.
const BY_ID: i16 = 13;

/// A session that was not used for so long may be evicted by any other, and one
/// that is so old by a larger one (`FetchSessionCacheShard`, evictionMs).
const EVICTION: Duration = Duration::from_secs(120);

/// Low bits of a session id: the core's number.
const CORE_BITS: u32 = 8;

/// What a partition of a session takes in memory, its topic's name aside.
const ROW_BYTES: usize = 192;

/// What a session takes in memory without partitions.
const SESSION_BYTES: usize = 256;

/// The sessions of one core.
#[derive(Debug, Default)]
pub struct Sessions {
    core: u16,
    slots: usize,
    /// Draws ids; seeded by the clock, so that an id of the broker's life before
    /// is not met again.
    rng: Option<Rng>,
    by_id: BTreeMap<i32, Session>,
    bytes: usize,
}

/// How a session names a topic, as its requests do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SessionTopic {
    Name(Arc<str>),
    Id(TopicId),
}

/// A partition of a session and how it is to be read.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub topic: SessionTopic,
    pub partition: PartitionIndex,
    pub current_leader_epoch: i32,
    pub fetch_offset: i64,
    pub max_bytes: i32,
}

#[derive(Debug)]
struct Session {
    /// What the next request has to carry.
    epoch: i32,
    by_topic_id: bool,
    /// A broker's: only brokers may take its slot.
    privileged: bool,
    created: Now,
    used: Now,
    /// The partitions in the order in which they are read.
    rows: BTreeMap<u64, Row>,
    places: BTreeMap<(SessionTopic, PartitionIndex), u64>,
    next_place: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Row {
    wanted: Wanted,
    /// What the client was told last; -1 after an error, so that the end of the
    /// error is told too.
    high_watermark: i64,
    log_start_offset: i64,
}

impl SessionTopic {
    fn of(key: TopicKey<'_>) -> Self {
        match key {
            TopicKey::Name(name) => Self::Name(name.into()),
            TopicKey::Id(id) => Self::Id(id),
        }
    }

    pub fn key(&self) -> TopicKey<'_> {
        match self {
            Self::Name(name) => TopicKey::Name(name),
            Self::Id(id) => TopicKey::Id(*id),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Name(name) => ROW_BYTES + name.len(),
            Self::Id(_) => ROW_BYTES,
        }
    }
}

impl Sessions {
    /// No sessions yet, and never more than `slots`.
    pub fn new(core: CoreId, slots: usize) -> Self {
        Self { core: core.0, slots, ..Self::default() }
    }

    /// Sessions at the moment.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Ends a session: any full request of its id does.
    pub(super) fn remove(&mut self, id: i32) {
        if let Some(session) = self.by_id.remove(&id) {
            self.bytes -= session.bytes;
        }
    }

    /// Takes in an incremental request. Adds all that the session wants now to
    /// `wanted`, in its order, and returns the epoch its answer belongs to; `None`
    /// if nothing was left to want, which ends the session.
    ///
    /// # Errors
    /// FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH or
    /// FETCH_SESSION_TOPIC_ID_ERROR, for the whole request.
    pub(super) fn resume(
        &mut self,
        request: &FetchRequest<'_>,
        version: i16,
        now: Now,
        wanted: &mut Vec<Wanted>,
    ) -> Result<Option<i32>, ErrorCode> {
        let id = request.session_id;
        let session = self.by_id.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_topic_id != (version >= BY_ID) {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let before = session.bytes;
        session.want_all(request);
        session.forget(request);
        self.bytes = self.bytes - before + session.bytes;
        if session.rows.is_empty() {
            self.remove(id);
            return Ok(None);
        }
        if session.rows.len() > REQUEST_PARTITIONS_MAX || self.bytes > FETCH_SESSIONS_BYTES_MAX {
            self.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        session.used = now;
        session.epoch = next_epoch(session.epoch);
        wanted.extend(session.rows.values().map(|row| row.wanted.clone()));
        Ok(Some(session.epoch))
    }

    /// Grants a session for a full request that was answered with `outcomes`, one
    /// for each of its partitions. 0 if there is no room.
    pub(super) fn grant(
        &mut self,
        request: &FetchRequest<'_>,
        version: i16,
        now: Now,
        outcomes: &[FetchOutcome],
    ) -> i32 {
        if self.slots == 0 {
            return 0;
        }
        let mut session = Session {
            epoch: 1,
            by_topic_id: version >= BY_ID,
            privileged: request.replica_id.0 >= 0,
            created: now,
            used: now,
            rows: BTreeMap::new(),
            places: BTreeMap::new(),
            next_place: 0,
            bytes: SESSION_BYTES,
        };
        session.want_all(request);
        for (partition, outcome) in request.partitions().zip(outcomes) {
            let key = (SessionTopic::of(partition.topic), partition.partition);
            let place = session.places.get(&key).expect("it was just added");
            let row = session.rows.get_mut(place).expect("a place has a row");
            row.note(outcome);
        }
        if session.bytes > FETCH_SESSIONS_BYTES_MAX {
            return 0;
        }
        while self.by_id.len() >= self.slots
            || self.bytes + session.bytes > FETCH_SESSIONS_BYTES_MAX
        {
            let Some(id) = self.evictable(&session, now) else { return 0 };
            self.remove(id);
        }
        let id = self.draw_id(now);
        self.bytes += session.bytes;
        self.by_id.insert(id, session);
        id
    }

    /// Which session gives way to `new`.
    fn evictable(&self, new: &Session, now: Now) -> Option<i32> {
        let age = |since: Now| now.instant.since(since.instant);
        let (id, oldest) = self.by_id.iter().min_by_key(|(_, session)| session.used.instant)?;
        if age(oldest.used) > EVICTION {
            return Some(*id);
        }
        let worth = |session: &Session| (session.privileged, session.rows.len());
        let open = |session: &&Session| {
            age(session.created) > EVICTION || (new.privileged && !session.privileged)
        };
        let candidates = self.by_id.iter().filter(|(_, session)| open(session));
        let (id, least) = candidates.min_by_key(|(_, session)| worth(session))?;
        (worth(least) < worth(new)).then_some(*id)
    }

    fn draw_id(&mut self, now: Now) -> i32 {
        let seed = now.unix.0 as u64 ^ (u64::from(self.core) << 48);
        let rng = self.rng.get_or_insert_with(|| Rng::new(seed));
        loop {
            // Never 0, which is no session, nor negative.
            let high = rng.between(1, (1 << (31 - CORE_BITS)) - 1);
            let id = (high << CORE_BITS) as i32 | i32::from(self.core);
            if !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }

    /// Notes what became of what [`Sessions::resume`] gave out, and drops from
    /// both tables what need not be said. Partitions with records go to the end
    /// of the session's order, so that each gets its turn.
    ///
    /// # Errors
    /// The session has gone or was used by another request meanwhile: for the
    /// whole request.
    pub(super) fn settle(
        &mut self,
        id: i32,
        epoch: i32,
        wanted: &mut Vec<Wanted>,
        outcomes: &mut Vec<FetchOutcome>,
    ) -> Result<(), ErrorCode> {
        let session = self.by_id.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        let mut said = 0;
        for at in 0..wanted.len() {
            if session.settle(&wanted[at], &outcomes[at]) {
                wanted.swap(said, at);
                outcomes.swap(said, at);
                said += 1;
            }
        }
        wanted.truncate(said);
        outcomes.truncate(said);
        Ok(())
    }
}

impl Session {
    /// Adds and changes what a request names.
    fn want_all(&mut self, request: &FetchRequest<'_>) {
        let mut topic = None;
        for partition in request.partitions() {
            if partition.first_in_topic {
                topic = Some(SessionTopic::of(partition.topic));
            }
            let topic = topic.as_ref().expect("a partition follows its topic");
            self.want(topic, &partition);
        }
    }

    /// Forgets what an incremental request says; a full one has nothing to forget.
    fn forget(&mut self, request: &FetchRequest<'_>) {
        for (topic, partition) in request.forgotten() {
            let topic = SessionTopic::of(topic);
            let bytes = topic.bytes();
            if let Some(place) = self.places.remove(&(topic, partition)) {
                self.rows.remove(&place);
                self.bytes -= bytes;
            }
        }
    }

    fn want(&mut self, topic: &SessionTopic, asked: &FetchPartition<'_>) {
        let wanted = Wanted {
            topic: topic.clone(),
            partition: asked.partition,
            current_leader_epoch: asked.current_leader_epoch.0,
            fetch_offset: asked.fetch_offset,
            max_bytes: asked.partition_max_bytes,
        };
        if let Some(place) = self.places.get(&(topic.clone(), asked.partition)) {
            self.rows.get_mut(place).expect("a place has a row").wanted = wanted;
            return;
        }
        self.bytes += topic.bytes();
        self.places.insert((topic.clone(), asked.partition), self.next_place);
        let row = Row { wanted, high_watermark: -1, log_start_offset: -1 };
        self.rows.insert(self.next_place, row);
        self.next_place += 1;
    }

    /// Notes what was read; whether it has to be said.
    fn settle(&mut self, wanted: &Wanted, outcome: &FetchOutcome) -> bool {
        let key = (wanted.topic.clone(), wanted.partition);
        let Some(place) = self.places.get(&key).copied() else {
            return true; // Another session has got the id and come to this epoch.
        };
        let row = self.rows.get_mut(&place).expect("a place has a row");
        let said = row.note(outcome);
        if !outcome.records.is_empty() {
            let row = self.rows.remove(&place).expect("seen above");
            self.rows.insert(self.next_place, row);
            self.places.insert(key, self.next_place);
            self.next_place += 1;
        }
        said
    }
}

impl Row {
    /// Whether the client has to hear of this (`CachedPartition.maybeUpdateResponseData`).
    fn note(&mut self, outcome: &FetchOutcome) -> bool {
        let told = (self.high_watermark, self.log_start_offset);
        let failed = outcome.error != ErrorCode::None;
        let said = failed
            || !outcome.records.is_empty()
            || told != (outcome.high_watermark, outcome.log_start_offset);
        self.high_watermark = if failed { -1 } else { outcome.high_watermark };
        self.log_start_offset = outcome.log_start_offset;
        said
    }
}

/// Epochs go from `i32::MAX` to 1 (`FetchMetadata.nextEpoch`).
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixMillis;
    use crate::wire::client::encode_request;
    use crate::wire::frame::RequestHeader;
    use crate::wire::small::StrBytes;

    const VERSION: i16 = 12;

    /// The body of a request of session `id` for these topics.
    fn body(id: i32, epoch: i32, topics: &[String]) -> Vec<u8> {
        let mut request = kafka_wire::FetchRequest::default();
        (request.session_id, request.session_epoch) = (id, epoch);
        request.topics = topics
            .iter()
            .map(|name| {
                let mut topic = kafka_wire::fetch_request::FetchTopic::default();
                topic.topic = StrBytes::from(name.as_str());
                topic.partitions = vec![Default::default()];
                topic
            })
            .collect();
        let frame = encode_request(&request, VERSION, 1, "c").expect("representable");
        let (_, at) = RequestHeader::decode(&frame[4..]).expect("a header");
        frame[4 + at..].to_vec()
    }

    fn at(ms: u64) -> Now {
        let instant = crate::base::time::Instant::from_nanos(ms * 1_000_000);
        Now { instant, unix: UnixMillis(1_700_000_000_000 + ms as i64) }
    }

    fn grant(sessions: &mut Sessions, topics: &[String], now: Now) -> i32 {
        let body = body(0, 0, topics);
        let request = FetchRequest::decode(&body, VERSION).expect("a request");
        let outcomes: Vec<FetchOutcome> = topics.iter().map(|_| FetchOutcome::default()).collect();
        sessions.grant(&request, VERSION, now, &outcomes)
    }

    #[test]
    fn a_session_that_grows_without_end_is_ended() {
        let mut sessions = Sessions::new(CoreId(3), 10);
        let names = |round: usize| -> Vec<String> {
            (0..30).map(|n| format!("{round}-{n}-{}", "x".repeat(30_000))).collect()
        };
        let id = grant(&mut sessions, &names(0), at(0));
        assert_eq!(id & 0xff, 3, "the core's number");
        let mut wanted = vec![];
        for round in 1..100 {
            let body = body(id, round, &names(round as usize));
            let request = FetchRequest::decode(&body, VERSION).expect("a request");
            wanted.clear();
            match sessions.resume(&request, VERSION, at(1), &mut wanted) {
                Ok(epoch) => assert_eq!(epoch, Some(round + 1)),
                Err(error) => {
                    assert_eq!(error, ErrorCode::FetchSessionIdNotFound);
                    assert!(round > 30, "round {round}");
                    break;
                }
            }
            assert!(sessions.bytes <= FETCH_SESSIONS_BYTES_MAX);
        }
        assert!(sessions.is_empty() && sessions.bytes == 0);
    }

    #[test]
    fn bytes_are_bounded_as_slots_are() {
        let mut sessions = Sessions::new(CoreId(0), 1_000);
        let names: Vec<String> = (0..30).map(|n| format!("{n}-{}", "x".repeat(30_000))).collect();
        let granted = (0..100).filter(|_| grant(&mut sessions, &names, at(0)) != 0).count();
        assert!((30..40).contains(&granted), "{granted}");
        assert!(sessions.bytes <= FETCH_SESSIONS_BYTES_MAX);
        // Nobody has used one for two minutes.
        assert_ne!(grant(&mut sessions, &names, at(120_001)), 0);
        assert_eq!(sessions.len(), granted);
    }

    #[test]
    fn epochs_wrap_past_zero() {
        assert_eq!((next_epoch(1), next_epoch(i32::MAX)), (2, 1));
    }
}
