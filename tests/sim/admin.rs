//! The administrator: the only client that creates, deletes and changes topics, so
//! it knows what there must be, and asks.
//!
//! A creation, deletion or growth whose answer was lost may have happened or not;
//! it is asked for again until an answer says so. Of a setting, both values may be
//! found until then.

use corelane::base::rng::Rng;
use corelane::model::ids::TopicId;
use corelane::wire::apis::ApiKey;
use corelane::wire::small::{topic_id, uuid};
use kafka_wire::create_partitions_request::CreatePartitionsTopic;
use kafka_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::delete_topics_request::DeleteTopicState;
use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, MetadataRequest, MetadataResponse,
};
use kafka_wire_core::StrBytes;

use crate::client::{Asked, Link, Request, Shared};
use crate::file::pick;
use crate::model::{Topic, Tp};
use crate::queue::{MS, SEC};
use crate::wire;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const NOT_LEADER: i16 = 6;
const REQUEST_TIMED_OUT: i16 = 7;
const STORAGE_ERROR: i16 = 56;
const NOT_CONTROLLER: i16 = 41;
const UNKNOWN_TOPIC: i16 = 3;
const UNKNOWN_TOPIC_ID: i16 = 100;
const INVALID_TOPIC: i16 = 17;
const TOPIC_ALREADY_EXISTS: i16 = 36;
const LEADER_NOT_AVAILABLE: i16 = 5;
const INVALID_PARTITIONS: i16 = 37;

/// Most partitions that a topic grows to.
const GROWN: i32 = 6;

/// Of a resource that has settings, a topic; and what is done to a setting.
const TOPIC: i8 = 2;
const SET: i8 = 0;
const DELETE: i8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    /// A creation was asked for.
    MaybeCreated,
    Present(TopicId),
    /// A deletion was asked for.
    MaybeDeleted(TopicId),
}

#[derive(Debug)]
struct Known {
    name: String,
    partitions: i32,
    flush_messages: u64,
    stable: bool,
    /// Compacted.
    keyed: bool,
    state: State,
    /// So many partitions were asked for, and no answer has come.
    growing: Option<i32>,
    /// Values that `segment.bytes` may have: of its own, or none.
    segment_bytes: Vec<Option<u64>>,
}

#[derive(Clone, Debug)]
enum Doing {
    Create(usize),
    CreateBad,
    Delete(usize),
    /// Moves the start of a partition's log.
    DeleteRecords(Tp),
    Describe(usize),
    DescribeAll,
    /// A Metadata request that may create the topic.
    Mention(usize),
    /// More partitions.
    Grow(usize),
    /// Another `segment.bytes`.
    Configure(usize, Option<u64>),
    ShowConfigs(usize),
}

/// The administrator.
pub struct Admin {
    topics: Vec<Known>,
    doing: Option<Doing>,
    next_at: u64,
    /// Of the compacted topic: its records' timestamps count them.
    segment_ms: u64,
    /// Topics are created so that less is synced than they were to have (a planted
    /// bug).
    pub syncs_late: bool,
}

impl Admin {
    /// Draws the topics of the run, at most so many of a kind. `default_partitions`
    /// and `default_flush` are the broker's.
    pub fn draw(rng: &mut Rng, most: u64, default_partitions: i32, default_flush: u64) -> Self {
        let mut topics = vec![];
        for at in 0..rng.between(1, most) {
            let weak = rng.chance(1, 4);
            topics.push(Known {
                name: format!("stable-{at}"),
                partitions: rng.between(1, 2 * most) as i32,
                flush_messages: if weak { *pick(rng, &[3, 1_000]) } else { 1 },
                stable: true,
                keyed: false,
                state: State::Absent,
                growing: None,
                segment_bytes: vec![None],
            });
        }
        for at in 0..rng.between(1, most) {
            topics.push(Known {
                name: format!("passing-{at}"),
                partitions: rng.between(1, 3) as i32,
                flush_messages: 1,
                stable: false,
                keyed: false,
                state: State::Absent,
                growing: None,
                segment_bytes: vec![None],
            });
        }
        topics.push(Known {
            name: "mentioned".into(),
            partitions: default_partitions,
            flush_messages: default_flush,
            stable: false,
            keyed: false,
            state: State::Absent,
            growing: None,
            segment_bytes: vec![None],
        });
        Self { topics, doing: None, next_at: 0, syncs_late: false, segment_ms: 0 }
    }

    /// One more topic, a compacted one with small segments.
    pub fn with_keyed(&mut self, rng: &mut Rng) {
        self.segment_ms = *pick(rng, &[3, 10, 60]);
        self.topics.push(Known {
            name: "keyed".into(),
            partitions: rng.between(1, 2) as i32,
            flush_messages: 1,
            stable: true,
            keyed: true,
            state: State::Absent,
            growing: None,
            segment_bytes: vec![None],
        });
    }

    /// Whether all topics that stay are there.
    pub fn is_settled(&self) -> bool {
        self.topics.iter().all(|topic| match topic.state {
            State::Absent => !topic.stable,
            State::Present(_) => true,
            State::MaybeCreated | State::MaybeDeleted(_) => false,
        })
    }

    pub fn act(&mut self, link: &mut Link, shared: &mut Shared) -> u64 {
        let now = shared.queue.now();
        if link.open() > 0 {
            return u64::MAX;
        }
        if now < self.next_at {
            return self.next_at;
        }
        let doing = self.decide(&mut link.rng, shared);
        match &doing {
            Doing::Create(at) => self.create(link, shared, *at),
            Doing::CreateBad => {
                let mut topic = CreatableTopic::default();
                topic.name = "not/a name".into();
                topic.num_partitions = 1;
                topic.replication_factor = 1;
                let mut request = CreateTopicsRequest::default();
                request.topics = vec![topic];
                let version = link.rng.between(2, 7) as i16;
                link.send(shared, &request, version, 0, Asked::Admin);
            }
            Doing::Delete(at) => self.delete(link, shared, *at),
            Doing::DeleteRecords(tp) => self.delete_records(link, shared, *tp),
            Doing::Describe(at) => self.describe(link, shared, Some(*at), false),
            Doing::DescribeAll => self.describe(link, shared, None, false),
            Doing::Mention(at) => {
                self.topics[*at].state = State::MaybeCreated;
                self.describe(link, shared, Some(*at), true);
            }
            Doing::Grow(at) => self.grow(link, shared, *at),
            Doing::Configure(at, value) => self.configure(link, shared, *at, *value),
            Doing::ShowConfigs(at) => self.show_configs(link, shared, *at),
        }
        self.doing = Some(doing);
        u64::MAX
    }

    fn decide(&mut self, rng: &mut Rng, shared: &Shared) -> Doing {
        // What is uncertain, or has to be there, comes first.
        for (at, topic) in self.topics.iter().enumerate() {
            match topic.state {
                State::MaybeCreated if rng.chance(1, 2) => return Doing::Describe(at),
                State::MaybeCreated => return Doing::Create(at),
                State::MaybeDeleted(_) => return Doing::Delete(at),
                State::Absent if topic.stable => return Doing::Create(at),
                State::Present(_) if topic.growing.is_some() => return Doing::Grow(at),
                _ => {}
            }
        }
        let at = rng.below(self.topics.len() as u64) as usize;
        let topic = &self.topics[at];
        match (rng.below(12), topic.state) {
            (0 | 1, State::Absent) if !shared.quiet => {
                if topic.name == "mentioned" {
                    Doing::Mention(at)
                } else {
                    Doing::Create(at)
                }
            }
            (0, State::Present(_)) if !topic.stable && !shared.quiet => Doing::Delete(at),
            (2, State::Present(_)) => Doing::Create(at),
            (3, _) => Doing::CreateBad,
            (8, State::Present(_)) if topic.stable && !topic.keyed && topic.partitions < GROWN => {
                Doing::Grow(at)
            }
            (9, State::Present(_)) if topic.stable => {
                Doing::Configure(at, *pick(rng, &[None, Some(1 << 20), Some(3 << 20)]))
            }
            (10 | 11, State::Present(_)) if topic.stable => Doing::ShowConfigs(at),
            (6 | 7, State::Present(id)) if topic.stable && !topic.keyed && !shared.quiet => {
                Doing::DeleteRecords((id, rng.below(topic.partitions as u64) as i32))
            }
            (4 | 5, _) => Doing::DescribeAll,
            _ => Doing::Describe(at),
        }
    }

    fn create(&mut self, link: &mut Link, shared: &mut Shared, at: usize) {
        let known = &mut self.topics[at];
        if known.state == State::Absent {
            known.state = State::MaybeCreated;
        }
        let version = link.rng.between(2, 7) as i16;
        let mut topic = CreatableTopic::default();
        topic.name = StrBytes::from(known.name.as_str());
        topic.num_partitions = known.partitions;
        topic.replication_factor = 1;
        let mut config = CreatableTopicConfig::default();
        config.name = "flush.messages".into();
        let messages = known.flush_messages.max(if self.syncs_late { 3 } else { 1 });
        config.value = Some(StrBytes::from(messages.to_string().as_str()));
        topic.configs = vec![config];
        if known.keyed {
            for (name, value) in
                [("cleanup.policy", "compact"), ("segment.ms", &self.segment_ms.to_string())]
            {
                let mut config = CreatableTopicConfig::default();
                config.name = name.into();
                config.value = Some(StrBytes::from(value));
                topic.configs.push(config);
            }
        }
        if messages > 1 {
            let mut config = CreatableTopicConfig::default();
            config.name = "flush.ms".into();
            config.value = Some("200".into());
            topic.configs.push(config);
        }
        let mut request = CreateTopicsRequest::default();
        request.topics = vec![topic];
        link.send(shared, &request, version, 0, Asked::Admin);
    }

    fn delete(&mut self, link: &mut Link, shared: &mut Shared, at: usize) {
        let known = &mut self.topics[at];
        let (State::Present(id) | State::MaybeDeleted(id)) = known.state else {
            panic!("{} is deleted while {:?}", known.name, known.state)
        };
        known.state = State::MaybeDeleted(id);
        shared.model.topics.get_mut(&id).expect("it was present").dying = true;
        let version = link.rng.between(1, 6) as i16;
        let mut request = DeleteTopicsRequest::default();
        if version >= 6 {
            let mut topic = DeleteTopicState::default();
            if link.rng.chance(1, 2) {
                topic.topic_id = uuid(id);
            } else {
                topic.name = Some(StrBytes::from(known.name.as_str()));
            }
            request.topics = vec![topic];
        } else {
            request.topic_names = vec![StrBytes::from(known.name.as_str())];
        }
        link.send(shared, &request, version, 0, Asked::Admin);
    }

    fn grow(&mut self, link: &mut Link, shared: &mut Shared, at: usize) {
        let known = &mut self.topics[at];
        let count = *known.growing.get_or_insert(known.partitions + 1);
        let mut topic = CreatePartitionsTopic::default();
        topic.name = StrBytes::from(known.name.as_str());
        topic.count = count;
        topic.assignments = None;
        let mut request = CreatePartitionsRequest::default();
        request.topics = vec![topic];
        let version = link.rng.between(0, 3) as i16;
        link.send(shared, &request, version, 0, Asked::Admin);
    }

    fn grown(&mut self, shared: &mut Shared, at: usize) {
        let known = &mut self.topics[at];
        let (Some(count), State::Present(id)) = (known.growing.take(), known.state) else {
            panic!("{} grew while {:?}", known.name, known.state)
        };
        known.partitions = count;
        shared.model.topics.get_mut(&id).expect("it is present").partitions = count;
        shared.coverage.one("topics grown");
    }

    fn configure(&mut self, link: &mut Link, shared: &mut Shared, at: usize, value: Option<u64>) {
        let known = &mut self.topics[at];
        known.segment_bytes.push(value);
        let mut row = AlterableConfig::default();
        row.name = "segment.bytes".into();
        row.config_operation = if value.is_some() { SET } else { DELETE };
        row.value = value.map(|value| StrBytes::from(value.to_string()));
        let mut resource = AlterConfigsResource::default();
        resource.resource_type = TOPIC;
        resource.resource_name = StrBytes::from(known.name.as_str());
        resource.configs = vec![row];
        let mut request = IncrementalAlterConfigsRequest::default();
        request.resources = vec![resource];
        let version = link.rng.between(0, 1) as i16;
        link.send(shared, &request, version, 0, Asked::Admin);
    }

    fn show_configs(&self, link: &mut Link, shared: &mut Shared, at: usize) {
        let mut resource = DescribeConfigsResource::default();
        resource.resource_type = TOPIC;
        resource.resource_name = StrBytes::from(self.topics[at].name.as_str());
        resource.configuration_keys = Some(vec!["segment.bytes".into()]);
        let mut request = DescribeConfigsRequest::default();
        request.resources = vec![resource];
        let version = link.rng.between(1, 4) as i16;
        link.send(shared, &request, version, 0, Asked::Admin);
    }

    /// What is shown has to be a value that it may have.
    fn configs_shown(&mut self, shared: &mut Shared, at: usize, answer: &DescribeConfigsResponse) {
        let known = &self.topics[at];
        let [row] = &answer.results[..] else { panic!("one topic was asked for") };
        if row.error_code == UNKNOWN_TOPIC {
            // This core has not heard of anything since the start.
            return;
        }
        assert_eq!(row.error_code, 0, "{}", known.name);
        let [setting] = &row.configs[..] else { panic!("one setting was asked for") };
        let own = (setting.config_source == 1).then_some(&setting.value);
        let own = own.map(|value| value.as_deref().expect("a value").parse().expect("a number"));
        assert!(
            known.segment_bytes.contains(&own),
            "{}: {own:?} of {:?}",
            known.name,
            known.segment_bytes
        );
        shared.coverage.one("settings shown");
    }

    fn delete_records(&self, link: &mut Link, shared: &mut Shared, tp: Tp) {
        let (start, end) = (shared.model.start(tp), shared.model.floor(tp).max(0));
        let most = *pick(&mut link.rng, &[start + 3, start + (end - start) / 4, end, end + 1]);
        let offset = link.rng.between(0, most.clamp(0, end + 1) as u64) as i64;
        shared.model.start_asked(tp, offset);
        let version = link.rng.between(0, 2) as i16;
        let mut partition = DeleteRecordsPartition::default();
        partition.partition_index = tp.1;
        partition.offset = offset;
        let mut topic = DeleteRecordsTopic::default();
        topic.name = StrBytes::from(shared.model.topics[&tp.0].name.as_str());
        topic.partitions = vec![partition];
        let mut request = DeleteRecordsRequest::default();
        request.timeout_ms = *pick(&mut link.rng, &[1, 5_000]);
        request.topics = vec![topic];
        link.send(shared, &request, version, 5 * SEC, Asked::Admin);
    }

    fn records_deleted(&mut self, shared: &mut Shared, tp: Tp, answer: &DeleteRecordsResponse) {
        let rows = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let [row] = &rows.collect::<Vec<_>>()[..] else { panic!("one partition was asked for") };
        match row.error_code {
            0 => {
                shared.coverage.one("records deleted");
                shared.model.start_acked(tp, row.low_watermark);
            }
            OFFSET_OUT_OF_RANGE | NOT_LEADER | REQUEST_TIMED_OUT | STORAGE_ERROR
            | UNKNOWN_TOPIC => {}
            code => panic!("a deletion of records was answered with error {code}"),
        }
    }

    fn describe(&self, link: &mut Link, shared: &mut Shared, at: Option<usize>, create: bool) {
        let version = link.rng.between(if create { 0 } else { 4 }, 13) as i16;
        let version = if create { version } else { version.max(4) };
        let mut request = MetadataRequest::default();
        request.allow_auto_topic_creation = create || version < 4;
        request.topics = at.map(|at| {
            let mut topic = MetadataRequestTopic::default();
            topic.name = Some(StrBytes::from(self.topics[at].name.as_str()));
            vec![topic]
        });
        link.send(shared, &request, version, 0, Asked::Admin);
    }

    pub fn answered(
        &mut self,
        link: &mut Link,
        shared: &mut Shared,
        request: Request,
        frame: Vec<u8>,
    ) {
        let pause =
            if shared.calm { 200 * MS } else { *pick(&mut link.rng, &[0, 2 * MS, 60 * MS]) };
        let pause = if self.is_settled() { pause } else { pause.min(2 * MS) };
        self.next_at = shared.queue.now() + pause;
        let doing = self.doing.take().expect("one thing at a time");
        let (api, version) = (request.api.api(), request.version);
        match (request.api, doing) {
            (ApiKey::CreateTopics, doing) => {
                let answer: CreateTopicsResponse = wire::answer(frame, api, version);
                let [row] = &answer.topics[..] else { panic!("one topic was asked for") };
                match doing {
                    Doing::CreateBad => assert!(
                        [INVALID_TOPIC, STORAGE_ERROR, NOT_CONTROLLER].contains(&row.error_code)
                    ),
                    Doing::Create(at) => {
                        let id = (version >= 7).then(|| topic_id(row.topic_id));
                        self.created(shared, at, row.error_code, id);
                    }
                    other => panic!("{other:?} is no creation"),
                }
            }
            (ApiKey::DeleteRecords, Doing::DeleteRecords(tp)) => {
                let answer: DeleteRecordsResponse = wire::answer(frame, api, version);
                self.records_deleted(shared, tp, &answer);
            }
            (ApiKey::DeleteTopics, Doing::Delete(at)) => {
                let answer: DeleteTopicsResponse = wire::answer(frame, api, version);
                let [row] = &answer.responses[..] else { panic!("one topic was asked for") };
                match row.error_code {
                    // A deletion that was repeated finds nothing.
                    0 | UNKNOWN_TOPIC | UNKNOWN_TOPIC_ID => {
                        shared.coverage.one("topics deleted");
                        self.topics[at].state = State::Absent;
                    }
                    code => self.passes(code, "deletion"),
                }
            }
            (ApiKey::CreatePartitions, Doing::Grow(at)) => {
                let answer: CreatePartitionsResponse = wire::answer(frame, api, version);
                let [row] = &answer.results[..] else { panic!("one topic was asked for") };
                match row.error_code {
                    // A growth that was repeated finds it done.
                    0 | INVALID_PARTITIONS => self.grown(shared, at),
                    code => self.passes(code, "growth"),
                }
            }
            (ApiKey::IncrementalAlterConfigs, Doing::Configure(at, value)) => {
                let answer: IncrementalAlterConfigsResponse = wire::answer(frame, api, version);
                let [row] = &answer.responses[..] else { panic!("one topic was asked for") };
                match row.error_code {
                    0 => {
                        shared.coverage.one("settings changed");
                        self.topics[at].segment_bytes = vec![value];
                    }
                    code => self.passes(code, "change of a setting"),
                }
            }
            (ApiKey::DescribeConfigs, Doing::ShowConfigs(at)) => {
                let answer: DescribeConfigsResponse = wire::answer(frame, api, version);
                self.configs_shown(shared, at, &answer);
            }
            (ApiKey::Metadata, doing) => {
                let answer: MetadataResponse = wire::answer(frame, api, version);
                self.described(shared, &doing, version, &answer);
            }
            (api, doing) => panic!("{doing:?} was answered with {api:?}"),
        }
    }

    fn passes(&mut self, code: i16, what: &str) {
        let passing = [STORAGE_ERROR, NOT_CONTROLLER].contains(&code);
        assert!(passing, "a {what} was answered with error {code}");
        self.next_at += 50 * MS;
    }

    fn created(&mut self, shared: &mut Shared, at: usize, error: i16, id: Option<TopicId>) {
        let state = self.topics[at].state;
        match (error, state) {
            (0, State::MaybeCreated) => {
                shared.coverage.one("topics created");
                if let Some(id) = id {
                    self.present(shared, at, id);
                }
            }
            (TOPIC_ALREADY_EXISTS, State::Present(_) | State::MaybeCreated) => {}
            (STORAGE_ERROR | NOT_CONTROLLER, _) => self.passes(error, "creation"),
            other => panic!("the creation of {} ended as {other:?}", self.topics[at].name),
        }
    }

    fn present(&mut self, shared: &mut Shared, at: usize, id: TopicId) {
        let known = &mut self.topics[at];
        known.state = State::Present(id);
        let topic = Topic {
            name: known.name.clone(),
            partitions: known.partitions,
            strong: known.flush_messages == 1,
            stable: known.stable,
            dying: false,
            keyed: known.keyed,
        };
        shared.model.topics.entry(id).or_insert(topic);
    }

    fn described(
        &mut self,
        shared: &mut Shared,
        doing: &Doing,
        version: i16,
        answer: &MetadataResponse,
    ) {
        let named: Vec<usize> = match doing {
            Doing::Describe(at) | Doing::Mention(at) => vec![*at],
            _ => (0..self.topics.len()).collect(),
        };
        for at in named {
            let known = &self.topics[at];
            let row = answer
                .topics
                .iter()
                .find(|row| row.name.as_ref().is_some_and(|name| name.as_str() == known.name));
            let found = row.filter(|row| row.error_code == 0);
            let error = row.map_or(UNKNOWN_TOPIC, |row| row.error_code);
            if let Some(row) = found {
                let count = row.partitions.len() as i32;
                let counts = [Some(known.partitions), known.growing];
                assert!(counts.contains(&Some(count)), "{}: {count} of {counts:?}", known.name);
                assert!(row.partitions.iter().all(|cell| cell.leader_id == 1));
            }
            let id = found.filter(|_| version >= 10).map(|row| topic_id(row.topic_id));
            match (found.is_some(), known.state) {
                (true, State::Absent) => panic!("{} was deleted and is there", known.name),
                (true, State::Present(before)) => {
                    assert!(id.is_none_or(|id| id == before), "{} has another id", known.name);
                }
                (true, State::MaybeCreated) => {
                    if matches!(doing, Doing::Mention(_)) {
                        shared.coverage.one("topics created by Metadata");
                    }
                    if let Some(id) = id {
                        self.present(shared, at, id);
                    }
                }
                (true, State::MaybeDeleted(_)) => {}
                (false, State::Present(_)) => {
                    panic!("{} was created and is not there: error {error}", known.name)
                }
                (false, State::Absent | State::MaybeCreated | State::MaybeDeleted(_)) => {
                    let passing =
                        [UNKNOWN_TOPIC, LEADER_NOT_AVAILABLE, STORAGE_ERROR, NOT_CONTROLLER];
                    assert!(passing.contains(&error), "Metadata error {error}");
                }
            }
        }
        self.next_at = self.next_at.min(shared.queue.now() + SEC);
    }
}
