//! The top of the pure core: one value per core that owns the core's
//! connections, its partitions and everything between them.
//!
//! [`Shard::step`] is the only way in. It has no thread, no clock, no random
//! source and no file descriptor; it tells through [`Effects`] what it wants
//! done. Life: *running* from the first event on; *draining* after a stop (no
//! new connections, nothing is received, what is here is answered); *waiting*
//! until every core has drained; *closing* (logs are synced and closed);
//! *stopped*.

mod coordinators;
pub mod event;
mod requests;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use self::event::{Effects, Event, Wake};
use self::requests::InFlight;
use self::tally::Tally;
use crate::api::{Answer, Context, Pools, ProducerIds, Sessions};
use crate::base::limits::{COMMANDS_OPEN_MAX, FRAME_PATIENCE_MS, STOP_PATIENCE_MS};
use crate::base::pages::{PagePool, PageWriter};
use crate::base::slab::Slab;
use crate::base::time::{Instant, Now};
use crate::config::{Settings, TimestampType, TopicConfig};
use crate::connection::Connection;
use crate::connection::memory::ReceiveMemory;
use crate::effect::net::{ConnectionId, NetEvent, NetOp, Received};
use crate::group::{Coordinator, OFFSETS_TOPIC};
use crate::log::LogConfig;
use crate::log::compaction::CompactionConfig;
use crate::log::retention::Retention;
use crate::mesh::{Credit, Mail};
use crate::metadata::image::{Change, Delta, Image, Topic};
use crate::metadata::link::{ToController, ToShard};
use crate::model::ids::{CoreId, LeaderEpoch, PartitionIndex, TopicPartition};
use crate::replica::work::Origin;
use crate::replica::{PartitionConfig, ReplicaCounters, Replicas, TimestampBounds};

/// One core of the broker.
#[derive(Debug)]
pub struct Shard {
    core: CoreId,
    settings: Arc<Settings>,
    /// What topics without settings of their own go by.
    topic_defaults: TopicConfig,
    context: Context,
    replicas: Replicas,
    connections: Vec<Option<Connection>>,
    /// Connections with something to do before the turn ends.
    dirty: Vec<ConnectionId>,
    /// Connections that found no memory to receive into; who waits longest first.
    starved: Vec<ConnectionId>,
    /// When to look for memory for them next: pages come back without an event
    /// when another core gives them back.
    starved_look: Instant,
    /// Who may use the last memory for its frame: number and generation.
    favoured: Option<(ConnectionId, u64)>,
    /// When a connection was closed last for lack of memory.
    relieved: Instant,
    next_generation: u64,
    in_flight: Slab<InFlight>,
    next_request: u64,
    /// Messages of this core to itself.
    local: VecDeque<Mail>,
    credit: Credit,
    /// Commands that the controller has not answered.
    commands: usize,
    receive_memory: ReceiveMemory,
    /// `socket.request.max.bytes`, or what memory allows.
    request_max: usize,
    answer_pages: PagePool,
    answer: Answer,
    pools: Pools,
    producer_ids: ProducerIds,
    groups: Coordinator,
    /// The page that takes the next batch of a coordinator.
    batch_page: Option<PageWriter>,
    tally: Tally,
    life: Life,
    /// All cores were told that the log directory has failed.
    directory_failed: bool,
    /// When to look for idle connections next.
    idle_check: Instant,
    /// Cores that have drained.
    drained: u16,
    /// Whether every log was closed by the last stop.
    clean: bool,
}

/// Memory for starved connections is looked for so often.
const STARVED_LOOK: Duration = Duration::from_millis(10);

/// Idle connections are looked for at most so often.
const IDLE_CHECK_MIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Starting,
    Running,
    /// With the moment at which patience with slow clients ends.
    Draining(Option<Instant>),
    /// This core has drained; others have not.
    Waiting,
    Closing,
    Stopped,
}

/// How the memory of one core is divided, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShares {
    /// For frames that come in: a quarter.
    pub receive: usize,
    /// For what is not records in answers: an eighth.
    pub answers: usize,
    /// For logs: the rest.
    pub logs: usize,
}

impl MemoryShares {
    /// The shares of each core of a broker with these settings.
    pub fn of(settings: &Settings) -> Self {
        let share = usize::try_from(settings.memory).unwrap_or(usize::MAX)
            / usize::from(settings.cores.max(1));
        Self { receive: share / 4, answers: share / 8, logs: share / 8 * 5 }
    }
}

/// Plain numbers about one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCounters {
    /// Of the partitions.
    pub replicas: ReplicaCounters,
    /// Connections at the moment.
    pub connections: usize,
    /// Requests that wait for work or the controller.
    pub requests_in_flight: usize,
    /// Fetch sessions.
    pub fetch_sessions: usize,
    /// Bytes of memory held for frames.
    pub receive_bytes: usize,
    /// Bytes of memory held for logs.
    pub log_bytes: usize,
    /// Bytes of memory held for answers.
    pub answer_bytes: usize,
}

impl Shard {
    /// The shard `core` of a broker with these settings. `clean` says that the
    /// last run closed all logs.
    pub fn new(core: CoreId, settings: Arc<Settings>, clean: bool) -> Self {
        let shares = MemoryShares::of(&settings);
        let image = Arc::new(Image::empty("".into(), settings.node_id));
        let slots = settings.fetch_session_slots.div_ceil(usize::from(settings.cores.max(1)));
        let sessions = Sessions::new(core, slots);
        let receive_memory = ReceiveMemory::new(shares.receive);
        let mut replicas = Replicas::new(core, shares.logs, clean);
        if settings.huge_pages {
            replicas.use_huge_pages();
        }
        replicas.allow_journal(settings.journal_bytes);
        replicas.set_cores(settings.cores);
        replicas.sweep_every(settings.retention_check);
        replicas.compact_every(settings.cleaner_backoff);
        let rate = match (settings.cleaner_enable, settings.cleaner_rate) {
            (false, _) => Some(0),
            // A core always gets on.
            (true, rate) => rate.map(|rate| (rate / u64::from(settings.cores.max(1))).max(1)),
        };
        replicas.limit_compaction(rate, settings.cleaner_buffer);
        let context = Context {
            node: settings.node_id,
            core,
            log_dir: settings.log_dir.to_string_lossy().into(),
            cores: settings.cores,
            settings: settings.clone(),
            image,
            auto_create_topics: settings.auto_create_topics,
            fetch_max_bytes: settings.fetch_max_bytes,
            groups: settings.groups.clone(),
        };
        Self {
            core,
            context,
            replicas,
            request_max: settings.request_max_bytes.min(receive_memory.frame_max()),
            receive_memory,
            answer_pages: PagePool::new(shares.answers),
            connections: vec![],
            dirty: vec![],
            starved: vec![],
            starved_look: Instant::default(),
            favoured: None,
            relieved: Instant::default(),
            next_generation: 0,
            in_flight: Slab::default(),
            next_request: 0,
            local: VecDeque::new(),
            credit: Credit::new(settings.cores),
            commands: 0,
            answer: Answer::default(),
            pools: Pools::new(sessions),
            producer_ids: ProducerIds::default(),
            groups: Coordinator::new(settings.groups.clone()),
            batch_page: None,
            tally: Tally::default(),
            life: Life::Starting,
            directory_failed: false,
            idle_check: Instant::default(),
            drained: 0,
            clean: false,
            topic_defaults: settings.topics.clone(),
            settings,
        }
    }

    /// Lets no more than `max` files of logs stay open while nothing needs them.
    pub fn limit_open_files(&mut self, max: usize) {
        self.replicas.limit_open_files(max);
    }

    /// Lets the core have no more than `max` syncs of single files in flight.
    pub fn limit_syncs_alone(&mut self, max: usize) {
        self.replicas.limit_syncs_alone(max);
    }

    /// Takes in one event. See [`event`] for the order of calls.
    pub fn step(&mut self, now: Now, event: Event<'_>, effects: &mut Effects) {
        self.tally.now = now.instant;
        if self.life == Life::Starting {
            self.life = Life::Running;
            self.replicas.start(&mut effects.disk);
            self.seed_groups(now);
        }
        match event {
            Event::Net(event) => self.on_net(now, event, effects),
            Event::Disk(completion) => {
                self.replicas.on_disk(now, completion, &mut effects.disk);
            }
            Event::Mail { from, mail } => self.on_mail(now, from, mail, effects),
            Event::Control(message) => self.on_control(now, message, effects),
            Event::Turn => self.turn(now, effects),
        }
        self.deliver(now, effects);
    }

    /// When the next [`Event::Turn`] is wanted.
    pub fn wake(&self) -> Wake {
        if self.life == Life::Stopped {
            return Wake::Stopped;
        }
        let work = !self.local.is_empty()
            || !self.dirty.is_empty()
            || self.replicas.has_work()
            || self.groups.has_work();
        if work || self.life == Life::Starting {
            return Wake::Now;
        }
        let patience = match self.life {
            Life::Draining(patience) => patience,
            _ => None,
        };
        let idle_check = (self.settings.connections_max_idle.is_some()
            && self.connections.iter().any(Option::is_some))
        .then_some(self.idle_check);
        let starved = (!self.starved.is_empty()).then_some(self.starved_look);
        let deadlines = [self.replicas.next_deadline(), self.groups.next_deadline()];
        let own = [patience, idle_check, starved];
        match deadlines.into_iter().chain(own).flatten().min() {
            Some(at) => Wake::At(at),
            None => Wake::OnEvent,
        }
    }

    /// Numbers for people and tests.
    pub fn counters(&mut self) -> ShardCounters {
        ShardCounters {
            replicas: self.replicas.counters(),
            connections: self.connections.iter().flatten().count(),
            requests_in_flight: self.in_flight.len(),
            fetch_sessions: self.pools.sessions.len(),
            receive_bytes: self.receive_memory.in_use(),
            log_bytes: self.replicas.memory_in_use(),
            answer_bytes: self.answer_pages.in_use(),
        }
    }

    /// Carries finished work to where it was asked for, and messages of this
    /// core to itself, until there are none.
    fn deliver(&mut self, now: Now, effects: &mut Effects) {
        loop {
            for (origin, work) in self.replicas.finished() {
                if coordinators::is_ours(origin) {
                    coordinators::take(&mut self.groups, now, origin, work);
                    continue;
                }
                let mail = Mail::Answer { origin, work };
                if origin.core == self.core {
                    self.local.push_back(mail);
                } else {
                    effects.mail.push((origin.core, mail));
                }
            }
            if self.serve_groups(now, effects) {
                continue;
            }
            let Some(mail) = self.local.pop_front() else { return };
            self.on_mail(now, self.core, mail, effects);
        }
    }

    /// Sends a message to a core, this one included. There must be credit for it.
    fn mail(&mut self, to: CoreId, mail: Mail, effects: &mut Effects) {
        if to == self.core {
            self.local.push_back(mail);
        } else {
            effects.mail.push((to, mail));
        }
    }

    fn on_mail(&mut self, now: Now, from: CoreId, mail: Mail, effects: &mut Effects) {
        match mail {
            Mail::Request { origin, work } => {
                self.replicas.submit(now, origin, work, &mut effects.disk);
            }
            Mail::Answer { origin, work } => {
                self.credit_back(from, effects);
                self.on_work(from, origin, work, effects);
            }
            Mail::Group { asker, request } => self.groups.submit(now, asker, *request),
            Mail::GroupAnswer { asker, response } => {
                self.credit_back(from, effects);
                self.on_group_answer(from, asker, *response, effects);
            }
            Mail::GroupParked | Mail::GroupLateTaken => self.credit_back(from, effects),
            Mail::GroupLate { asker, response } => {
                self.mail(from, Mail::GroupLateTaken, effects);
                self.on_group_answer(from, asker, *response, effects);
            }
            Mail::CancelFetch { origin } => self.replicas.cancel_fetch(origin),
            Mail::DirectoryFailed(error) => {
                self.directory_failed = true;
                self.replicas.fail_directory(now, error, &mut effects.disk);
            }
            Mail::Drained => self.drained += 1,
        }
    }

    /// A core has answered, so it can be asked something else.
    fn credit_back(&mut self, from: CoreId, effects: &mut Effects) {
        if let Some(next) = self.credit.answered(from) {
            self.mail(from, next, effects);
            if !self.credit.is_exhausted() {
                self.all_dirty();
            }
        }
    }

    fn on_control(&mut self, now: Now, message: ToShard, effects: &mut Effects) {
        match message {
            ToShard::Publish { image, delta } => {
                self.context.image = image;
                self.groups_take_topics(&delta);
                self.apply(now, &delta, effects);
                self.replicas.all_added();
                let offset = self.context.image.offset;
                effects.control.push(ToController::Applied { core: self.core, offset });
            }
            ToShard::Answer { id, answer } => self.on_answer(id, answer, effects),
            ToShard::Stop => self.stop(now, effects),
        }
    }

    fn apply(&mut self, now: Now, delta: &Delta, effects: &mut Effects) {
        for change in &delta.changes {
            match change {
                Change::TopicCreated(topic) | Change::TopicChanged(topic) => {
                    self.take_topic(now, topic, effects);
                }
                Change::BrokerConfigChanged => self.configure_all(now, effects),
                Change::TopicDeleted(topic) => {
                    for index in 0..topic.partitions.len() as i32 {
                        let partition = PartitionIndex(index);
                        let id = TopicPartition { topic: topic.id, partition };
                        self.replicas.remove(now, id, &mut effects.disk);
                    }
                    self.groups_lose_topic(now, topic);
                }
                Change::NodeChanged(_) => {}
            }
        }
    }

    /// Adds the topic's partitions of this core that are not there yet; the others
    /// go by its settings from now on.
    fn take_topic(&mut self, now: Now, topic: &Topic, effects: &mut Effects) {
        let config = self.partition_config(topic);
        for (id, leader_epoch) in self.own_partitions(topic) {
            if !self.replicas.configure(now, id, config, &mut effects.disk) {
                self.replicas.add(id, &topic.name, leader_epoch, config);
                if &*topic.name == OFFSETS_TOPIC {
                    self.groups.add(id.partition, topic.partitions.len() as i32);
                }
            }
        }
    }

    /// Settings of brokers have changed, so those of topics may have.
    fn configure_all(&mut self, now: Now, effects: &mut Effects) {
        let image = self.context.image.clone();
        let defaults = self.context.layers().topic_defaults();
        self.topic_defaults = defaults.unwrap_or_else(|reason| {
            // The controller has checked them; another release may think otherwise.
            tracing::error!("settings of the broker: {reason}; none of them applies");
            self.settings.topics.clone()
        });
        for topic in image.topics() {
            let config = self.partition_config(topic);
            for (id, _) in self.own_partitions(topic) {
                self.replicas.configure(now, id, config, &mut effects.disk);
            }
        }
    }

    /// The partitions of `topic` that this core leads.
    fn own_partitions(&self, topic: &Topic) -> Vec<(TopicPartition, LeaderEpoch)> {
        let Context { node, cores, .. } = self.context;
        let own = (0..).map(PartitionIndex).zip(&topic.partitions).filter(|(_, partition)| {
            partition.leader == Some(node) && partition.core_of(cores) == self.core
        });
        let id = |partition| TopicPartition { topic: topic.id, partition };
        own.map(|(index, partition)| (id(index), partition.leader_epoch)).collect()
    }

    fn partition_config(&self, topic: &Topic) -> PartitionConfig {
        let config = self.topic_defaults.with(&topic.configs).unwrap_or_else(|reason| {
            // As for the broker's.
            tracing::error!("topic {}: {reason}; the broker's settings apply", topic.name);
            self.topic_defaults.clone()
        });
        PartitionConfig {
            log: LogConfig {
                segment_bytes: config.segment_bytes,
                flush_messages: config.flush_messages,
                index_interval_bytes: config.index_interval_bytes,
                segment_index_bytes: config.segment_index_bytes,
                segment_ms: if config.cleanup.compact {
                    config.segment_ms.min(config.max_compaction_lag_ms)
                } else {
                    config.segment_ms
                },
                segment_jitter_ms: config.segment_jitter_ms,
                append_time: config.timestamp_type == TimestampType::LogAppendTime,
                producer_expiration_ms: self.settings.producer_expiration.as_millis() as i64,
            },
            retention: if config.cleanup.delete {
                Retention { ms: config.retention_ms, bytes: config.retention_bytes }
            } else {
                Retention::default()
            },
            compaction: config.cleanup.compact.then_some(CompactionConfig {
                dirty_ratio_ppm: config.min_cleanable_dirty_ppm,
                min_lag_ms: config.min_compaction_lag_ms,
                max_lag_ms: config.max_compaction_lag_ms,
                delete_retention_ms: config.delete_retention_ms,
            }),
            max_message_bytes: config.max_message_bytes,
            timestamps: TimestampBounds {
                append_time: config.timestamp_type == TimestampType::LogAppendTime,
                before_max_ms: config.timestamp_before_max_ms,
                after_max_ms: config.timestamp_after_max_ms,
            },
            flush_after: config.flush_ms.map(Duration::from_millis),
        }
    }

    fn on_net(&mut self, now: Now, event: NetEvent<'_>, effects: &mut Effects) {
        match event {
            NetEvent::Accepted { connection: id, peer } => {
                let at = id.0 as usize;
                if self.connections.len() <= at {
                    self.connections.resize_with(at + 1, || None);
                }
                assert!(self.connections[at].is_none(), "a number in use is not given out");
                self.next_generation += 1;
                let connection = Connection::new(id, self.next_generation, peer.ip(), now.instant);
                self.connections[at] = Some(connection);
                if !matches!(self.life, Life::Starting | Life::Running) {
                    self.close(id, effects);
                }
                self.dirty.push(id);
            }
            NetEvent::Received { connection: id, received } => {
                self.on_received(now, id, received, effects);
                self.take_requests(now, id, effects);
            }
            NetEvent::Sent { connection: id, mut bytes, result } => {
                let len = bytes.len();
                bytes.clear();
                self.pools.ropes.push(bytes);
                let connection = self.connection(id);
                match result {
                    Ok(()) => {
                        connection.note_activity(now.instant);
                        connection.sent(len);
                    }
                    Err(_) => self.close(id, effects),
                }
                self.dirty.push(id);
            }
            NetEvent::Closed { connection: id } => self.connections[id.0 as usize] = None,
        }
    }

    fn on_received(
        &mut self,
        now: Now,
        id: ConnectionId,
        received: Received<'_>,
        effects: &mut Effects,
    ) {
        let request_max = self.request_max;
        let connection = self.connections[id.0 as usize].as_mut().expect("it received");
        connection.note_activity(now.instant);
        match received {
            Received::Lent(bytes) => {
                let memory = &mut self.receive_memory;
                if !connection.received_lent(now.instant, bytes, request_max, memory) {
                    tracing::warn!("closing a connection: no memory left for requests");
                    self.tally.refused();
                    self.close(id, effects);
                }
            }
            Received::Page(page) => connection.received_page(page),
            Received::End => {
                connection.received_end();
                self.end_polls(id, effects);
            }
            Received::Failed(_) => self.close(id, effects),
        }
        self.dirty.push(id);
    }

    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        let connection = self.connections.get_mut(id.0 as usize).and_then(Option::as_mut);
        connection.expect("the performer speaks of connections that are there")
    }

    fn close(&mut self, id: ConnectionId, effects: &mut Effects) {
        if self.connection(id).close() {
            self.end_polls(id, effects);
            effects.net.push(NetOp::Close { connection: id });
        }
    }

    /// Whether requests wait for other cores or the controller: sockets are not
    /// read meanwhile.
    fn is_exhausted(&self) -> bool {
        self.credit.is_exhausted() || self.commands >= COMMANDS_OPEN_MAX
    }

    /// Looks at every connection again before the turn ends.
    fn all_dirty(&mut self) {
        let connections = self.connections.iter().flatten();
        self.dirty.extend(connections.map(Connection::id));
    }

    fn turn(&mut self, now: Now, effects: &mut Effects) {
        self.groups.turn(now);
        self.deliver(now, effects);
        self.replicas.turn(now, &mut effects.disk);
        self.tell_directory_failure(now, effects);
        self.deliver(now, effects);
        self.close_idle(now, effects);
        self.move_bytes(now, effects);
        self.feed_starved(now, effects);
        self.go_on_stopping(now, effects);
    }

    /// Tells all cores, this one included, when the log directory has failed.
    fn tell_directory_failure(&mut self, now: Now, effects: &mut Effects) {
        if let Some(error) = self.replicas.directory_failure()
            && !std::mem::replace(&mut self.directory_failed, true)
        {
            tracing::error!("the log directory has failed, nothing more is acknowledged: {error}");
            self.replicas.fail_directory(now, error, &mut effects.disk);
            self.tell_other_cores(|| Mail::DirectoryFailed(error), effects);
        }
    }

    fn tell_other_cores(&self, mail: impl Fn() -> Mail, effects: &mut Effects) {
        let others = (0..self.context.cores).map(CoreId).filter(|core| *core != self.core);
        effects.mail.extend(others.map(|core| (core, mail())));
    }

    /// Closes connections on which nothing has happened for
    /// `connections.max.idle.ms`.
    fn close_idle(&mut self, now: Now, effects: &mut Effects) {
        let Some(max) = self.settings.connections_max_idle else { return };
        if now.instant < self.idle_check {
            return;
        }
        self.idle_check = now.instant + (max / 8).max(IDLE_CHECK_MIN);
        let idle = |connection: &&Connection| connection.is_idle_since(now.instant, max);
        let ids: Vec<ConnectionId> =
            self.connections.iter().flatten().filter(idle).map(Connection::id).collect();
        for id in ids {
            self.close(id, effects);
        }
    }

    /// Sends, receives and ends what is due.
    fn move_bytes(&mut self, now: Now, effects: &mut Effects) {
        let mut at = 0;
        while at < self.dirty.len() {
            let id = self.dirty[at];
            at += 1;
            // Room may have come back for requests that are here already.
            self.take_requests(now, id, effects);
            self.deliver(now, effects);
            let exhausted = self.is_exhausted();
            let Some(Some(connection)) = self.connections.get_mut(id.0 as usize) else { continue };
            if let Some(bytes) = connection.send(&mut self.pools.ropes) {
                effects.net.push(NetOp::Send { connection: id, bytes });
            }
            if connection.is_finished() {
                self.close(id, effects);
                continue;
            }
            if exhausted {
                continue; // Looked at again when there is credit.
            }
            if connection.is_starved() {
                continue; // It has its place among those that wait.
            }
            let (now, memory) = (now.instant, &mut self.receive_memory);
            if let Some(into) = connection.receive(now, self.request_max, memory) {
                effects.net.push(NetOp::Receive { connection: id, into });
            } else if connection.is_starved() {
                self.starved.push(id);
            }
        }
        self.dirty.clear();
    }

    /// Gives memory to the connections that wait for it, in their order.
    fn feed_starved(&mut self, now: Now, effects: &mut Effects) {
        if self.starved.is_empty() {
            return;
        }
        self.starved_look = now.instant + STARVED_LOOK;
        if self.is_exhausted() {
            return;
        }
        // One at a time has the right to the last memory, until its frame is whole.
        let mut favoured = self.favoured.is_some_and(|(id, generation)| {
            let connection = self.connections.get(id.0 as usize).and_then(Option::as_ref);
            connection.is_some_and(|connection| {
                connection.generation() == generation && connection.is_favoured()
            })
        });
        let mut left = vec![];
        for id in std::mem::take(&mut self.starved) {
            let Some(Some(connection)) = self.connections.get_mut(id.0 as usize) else { continue };
            if connection.is_closing() || !connection.is_starved() {
                continue;
            }
            if !favoured {
                favoured = true;
                connection.favour();
                self.favoured = Some((id, connection.generation()));
            }
            let memory = &mut self.receive_memory;
            if let Some(into) = connection.receive(now.instant, self.request_max, memory) {
                effects.net.push(NetOp::Receive { connection: id, into });
            } else if connection.is_starved() {
                left.push(id);
            }
        }
        self.starved = left;
        self.relieve(now, effects);
    }

    /// Closes the connection whose frame has gone longest without getting on, if
    /// another has waited long enough for memory: one at a time.
    fn relieve(&mut self, now: Now, effects: &mut Effects) {
        let patience = Duration::from_millis(FRAME_PATIENCE_MS);
        let Some(first) = self.starved.first().copied() else { return };
        let waits_since = self.connection(first).stalled_since().unwrap_or(now.instant);
        if now.instant.since(waits_since.max(self.relieved)) < patience {
            return;
        }
        let others = self.connections.iter().flatten().filter(|other| other.id() != first);
        let stalled = others.filter_map(|other| Some((other.stalled_since()?, other.id())));
        if let Some((_, id)) = stalled.min() {
            tracing::info!("closing a connection: memory is short, and its request does not come");
            self.relieved = now.instant;
            self.close(id, effects);
        }
    }

    fn stop(&mut self, now: Now, effects: &mut Effects) {
        if !matches!(self.life, Life::Starting | Life::Running) {
            return;
        }
        let patience = now.instant + Duration::from_millis(STOP_PATIENCE_MS);
        self.life = Life::Draining(Some(patience));
        effects.net.push(NetOp::StopAccepting);
        // Who waits for other members would hold up the stop.
        self.groups.resign(now);
        for connection in self.connections.iter_mut().flatten() {
            connection.finish();
        }
        self.all_dirty();
    }

    fn go_on_stopping(&mut self, now: Now, effects: &mut Effects) {
        if matches!(self.life, Life::Draining(_) | Life::Waiting) {
            // Long polls end here, those of other cores' clients too, which may
            // come when this core's own are gone.
            self.replicas.cancel_fetches();
            self.deliver(now, effects);
        }
        if let Life::Draining(patience) = self.life {
            let late = patience.is_some_and(|at| at <= now.instant);
            let ids: Vec<ConnectionId> =
                self.connections.iter().flatten().map(Connection::id).collect();
            for id in ids {
                if let Some(bytes) = {
                    let Self { connections, pools, .. } = self;
                    connections[id.0 as usize].as_mut().and_then(|c| c.send(&mut pools.ropes))
                } {
                    effects.net.push(NetOp::Send { connection: id, bytes });
                }
                if late || self.connection(id).is_idle() {
                    self.close(id, effects);
                }
            }
            if late {
                self.life = Life::Draining(None);
            }
            if self.connections.iter().flatten().count() == 0 && self.in_flight.is_empty() {
                self.life = Life::Waiting;
                self.drained += 1;
                self.tell_other_cores(|| Mail::Drained, effects);
            }
        }
        if self.life == Life::Waiting && self.drained == self.context.cores {
            self.life = Life::Closing;
            self.replicas.close(&mut effects.disk);
            self.replicas.turn(now, &mut effects.disk);
        }
        if self.life == Life::Closing
            && let Some(clean) = self.replicas.stopped()
        {
            self.life = Life::Stopped;
            self.clean = clean;
            effects.control.push(ToController::Stopped { core: self.core, clean });
        }
    }

    /// Whether the stop left every log closed.
    pub fn stopped_clean(&self) -> bool {
        self.life == Life::Stopped && self.clean
    }

    fn origin(&self, id: u64) -> Origin {
        Origin { core: self.core, id }
    }
}
