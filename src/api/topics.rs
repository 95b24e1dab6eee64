//! CreateTopics, CreatePartitions and DeleteTopics: commands for the controller.

use super::{Answer, Call, Context, Outcome, Pending};
use crate::metadata::command::{
    Command, CreateOutcome, DeleteOutcome, MorePartitions, NewTopic, PartitionsOutcome, TopicRef,
};
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::small::create_partitions_response::CreatePartitionsTopicResult;
use crate::wire::small::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use crate::wire::small::delete_topics_response::DeletableTopicResult;
use crate::wire::small::{
    self, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, StrBytes,
};

/// A CreateTopics answer that waits for the controller.
#[derive(Debug)]
pub struct PendingCreate {
    version: i16,
    correlation_id: i32,
}

/// A CreatePartitions answer that waits for the controller.
#[derive(Debug)]
pub struct PendingPartitions {
    version: i16,
    correlation_id: i32,
}

/// A DeleteTopics answer that waits for the controller.
#[derive(Debug)]
pub struct PendingDelete {
    version: i16,
    correlation_id: i32,
}

pub(super) fn create(call: &Call<'_>, body: &[u8]) -> Result<Outcome, WireError> {
    let request: CreateTopicsRequest = small::decode(body, call.version)?;
    let topics = request.topics.iter().map(|topic| NewTopic {
        name: topic.name.as_str().to_owned(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|row| (row.partition_index, row.broker_ids.clone()))
            .collect(),
        configs: topic
            .configs
            .iter()
            .map(|row| {
                let value = row.value.as_ref().map(|value| value.as_str().to_owned());
                (row.name.as_str().to_owned(), value)
            })
            .collect(),
    });
    let command =
        Command::CreateTopics { topics: topics.collect(), validate_only: request.validate_only };
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingCreate { version, correlation_id };
    Ok(Outcome::Command(Pending::CreateTopics(pending), command))
}

impl PendingCreate {
    pub(super) fn respond(
        self,
        context: &Context,
        outcomes: Vec<CreateOutcome>,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let mut response = CreateTopicsResponse::default();
        for outcome in outcomes {
            let mut row = CreatableTopicResult::default();
            row.name = outcome.name.into();
            row.configs = Some(vec![]);
            match outcome.result {
                Ok(created) => {
                    row.topic_id = small::uuid(created.id);
                    row.num_partitions = created.partitions;
                    row.replication_factor = created.replication_factor;
                    let entries = context.layers().topic(&created.configs).map(|entry| {
                        let mut row = CreatableTopicConfigs::default();
                        row.name = StrBytes::from(entry.name);
                        row.value = entry.value.as_deref().map(StrBytes::from);
                        row.read_only = entry.read_only;
                        row.config_source = entry.source as i8;
                        row
                    });
                    // First in the answer of version 5.
                    row.configs = Some(if self.version < 5 { vec![] } else { entries.collect() });
                }
                Err(refusal) => {
                    row.error_code = refusal.code.code();
                    row.error_message = Some(refusal.message.into());
                }
            }
            response.topics.push(row);
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}

pub(super) fn create_partitions(call: &Call<'_>, body: &[u8]) -> Result<Outcome, WireError> {
    let request: CreatePartitionsRequest = small::decode(body, call.version)?;
    let topics = request.topics.into_iter().map(|topic| MorePartitions {
        name: topic.name.as_str().to_owned(),
        count: topic.count,
        assignments: topic
            .assignments
            .map(|rows| rows.into_iter().map(|row| row.broker_ids).collect()),
    });
    let command = Command::CreatePartitions {
        topics: topics.collect(),
        validate_only: request.validate_only,
    };
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingPartitions { version, correlation_id };
    Ok(Outcome::Command(Pending::CreatePartitions(pending), command))
}

impl PendingPartitions {
    pub(super) fn respond(
        self,
        outcomes: Vec<PartitionsOutcome>,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let mut response = CreatePartitionsResponse::default();
        for outcome in outcomes {
            let mut row = CreatePartitionsTopicResult::default();
            row.name = outcome.name.into();
            if let Err(refusal) = outcome.result {
                row.error_code = refusal.code.code();
                row.error_message = Some(refusal.message.into());
            }
            response.results.push(row);
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}

pub(super) fn delete(call: &Call<'_>, body: &[u8]) -> Result<Outcome, WireError> {
    let request: DeleteTopicsRequest = small::decode(body, call.version)?;
    let by_name = request.topic_names.iter().map(|name| TopicRef::Name(name.as_str().to_owned()));
    let either = request.topics.iter().map(|topic| match &topic.name {
        Some(name) => TopicRef::Name(name.as_str().to_owned()),
        None => TopicRef::Id(small::topic_id(topic.topic_id)),
    });
    let command = Command::DeleteTopics { topics: by_name.chain(either).collect() };
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingDelete { version, correlation_id };
    Ok(Outcome::Command(Pending::DeleteTopics(pending), command))
}

impl PendingDelete {
    pub(super) fn respond(
        self,
        outcomes: Vec<DeleteOutcome>,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let mut response = DeleteTopicsResponse::default();
        for outcome in outcomes {
            let mut row = DeletableTopicResult::default();
            match outcome.topic {
                TopicRef::Name(name) => row.name = Some(name.into()),
                TopicRef::Id(id) => row.topic_id = small::uuid(id),
            }
            match outcome.result {
                Ok((name, id)) => {
                    row.name = Some(name.into());
                    row.topic_id = small::uuid(id);
                }
                Err(refusal) => {
                    // Before ids could be used, their error was not known.
                    let code = match refusal.code {
                        ErrorCode::UnknownTopicId if self.version < 6 => {
                            ErrorCode::UnknownTopicOrPartition
                        }
                        code => code,
                    };
                    row.error_code = code.code();
                    row.error_message = Some(refusal.message.into());
                }
            }
            response.responses.push(row);
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}
