//! CreateTopics and DeleteTopics: commands for the controller.

use super::{Answer, Call, Outcome, Pending};
use crate::metadata::command::{Command, CreateOutcome, DeleteOutcome, NewTopic, TopicRef};
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::small::create_topics_response::CreatableTopicResult;
use crate::wire::small::delete_topics_response::DeletableTopicResult;
use crate::wire::small::{
    self, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
};

/// A CreateTopics answer that waits for the controller.
#[derive(Debug)]
pub struct PendingCreate {
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
