//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs: settings of topics,
//! brokers and groups (`ConfigHelper.scala`, KIP-133, KIP-226, KIP-339).
//!
//! Reading is answered at once from the image; changes are commands for the
//! controller, answered when every core goes by them.

use super::{Answer, Call, Context, Outcome, Pending};
use crate::base::limits::DESCRIBE_BYTES_MAX;
use crate::config::describe::{Entry, Layers};
use crate::config::table::Kind;
use crate::metadata::command::{
    AlterOutcome, AlterResource, Command, ConfigChange, Refusal, ResourceType,
};
use crate::model::error_code::ErrorCode;
use crate::model::ids::topic_name_error;
use crate::wire::WireError;
use crate::wire::small::describe_configs_request::DescribeConfigsResource;
use crate::wire::small::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use crate::wire::small::{
    self, AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest,
    DescribeConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    StrBytes, alter_configs_response, incremental_alter_configs_response,
};

/// An AlterConfigs or IncrementalAlterConfigs answer that waits for the controller.
#[derive(Debug)]
pub struct PendingAlter {
    version: i16,
    correlation_id: i32,
    incremental: bool,
}

impl Context {
    /// What is set for brokers.
    pub(crate) fn layers(&self) -> Layers<'_> {
        Layers {
            settings: &self.settings,
            cluster: self.image.broker_config(None),
            broker: self.image.broker_config(Some(self.node)),
        }
    }
}

pub(super) fn describe(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: DescribeConfigsRequest = small::decode(body, call.version)?;
    let mut response = DescribeConfigsResponse::default();
    let mut room = DESCRIBE_BYTES_MAX;
    for resource in &request.resources {
        let mut row = DescribeConfigsResult::default();
        row.resource_type = resource.resource_type;
        row.resource_name = resource.resource_name.clone();
        let wanted = |name: &str| match &resource.configuration_keys {
            Some(keys) if !keys.is_empty() => keys.iter().any(|key| key.as_str() == name),
            _ => true,
        };
        let mut described = |entry: Entry<'_>| -> Option<DescribeConfigsResourceResult> {
            let shown = show(&entry, request.include_synonyms, request.include_documentation);
            room = room.checked_sub(len(&shown))?;
            Some(shown)
        };
        let configs = entries(call.context, resource).and_then(|entries| {
            let entries = entries.filter(|entry| wanted(entry.name));
            entries.map(&mut described).collect::<Option<Vec<_>>>().ok_or_else(|| {
                let message = "The answer would be too large; ask for fewer resources at a time.";
                refusal(ErrorCode::PolicyViolation, message)
            })
        });
        match configs {
            Ok(configs) => row.configs = configs,
            Err(refusal) => {
                row.error_code = refusal.code.code();
                row.error_message = Some(refusal.message.into());
            }
        }
        response.results.push(row);
    }
    super::encode_small(answer, call.correlation_id, call.version, &response)?;
    Ok(Outcome::Done)
}

/// All settings of one resource.
fn entries<'a>(
    context: &'a Context,
    resource: &DescribeConfigsResource,
) -> Result<Box<dyn Iterator<Item = Entry<'a>> + 'a>, Refusal> {
    let name = resource.resource_name.as_str();
    let layers = context.layers();
    match ResourceType(resource.resource_type) {
        ResourceType::TOPIC => {
            if let Some(reason) = topic_name_error(name) {
                let message = format!("Invalid topic: {reason}");
                return Err(refusal(ErrorCode::InvalidTopicException, message));
            }
            let Some(topic) = context.image.topic(name) else {
                let message = "This server does not host this topic-partition.";
                return Err(refusal(ErrorCode::UnknownTopicOrPartition, message));
            };
            Ok(Box::new(layers.topic(&topic.configs)))
        }
        ResourceType::BROKER if name.is_empty() => Ok(Box::new(layers.cluster())),
        ResourceType::BROKER => {
            if broker_id(name)? != context.node.0 {
                let message = format!(
                    "Unexpected broker id, expected {} or empty string, but received {name}",
                    context.node
                );
                return Err(refusal(ErrorCode::InvalidRequest, message));
            }
            Ok(Box::new(layers.broker()))
        }
        ResourceType::BROKER_LOGGER if name.is_empty() => {
            Err(refusal(ErrorCode::InvalidRequest, "Broker id must not be empty"))
        }
        ResourceType::BROKER_LOGGER => {
            let message = if broker_id(name)? == context.node.0 {
                "This broker has no loggers whose levels can be asked for.".to_owned()
            } else {
                format!("Unexpected broker id, expected {} but received {name}", context.node)
            };
            Err(refusal(ErrorCode::InvalidRequest, message))
        }
        ResourceType::CLIENT_METRICS => {
            let message = "Subscriptions of client metrics are not supported.";
            Err(refusal(ErrorCode::InvalidRequest, message))
        }
        ResourceType::GROUP if name.is_empty() => {
            Err(refusal(ErrorCode::InvalidRequest, "Group name must not be empty"))
        }
        ResourceType::GROUP => Ok(Box::new(layers.group(context.image.group_config(name)))),
        ResourceType(kind) => {
            let message = format!("Unexpected resource type {kind} for resource {name}");
            Err(refusal(ErrorCode::InvalidRequest, message))
        }
    }
}

fn broker_id(name: &str) -> Result<i32, Refusal> {
    name.parse().map_err(|_| {
        let message = format!("Broker id must be an integer, but it is: {name}");
        refusal(ErrorCode::InvalidRequest, message)
    })
}

fn refusal(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

fn show(entry: &Entry<'_>, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let mut row = DescribeConfigsResourceResult::default();
    row.name = constant(entry.name);
    row.value = entry.value.as_deref().map(StrBytes::from);
    row.read_only = entry.read_only;
    row.config_source = entry.source as i8;
    row.config_type = config_type(entry.kind);
    if documentation {
        row.documentation = Some(constant(entry.doc));
    }
    if synonyms {
        row.synonyms = entry
            .synonyms
            .iter()
            .map(|synonym| {
                let mut row = DescribeConfigsSynonym::default();
                row.name = constant(synonym.name);
                row.value = Some(StrBytes::from(synonym.value));
                row.source = synonym.source as i8;
                row
            })
            .collect();
    }
    row
}

/// A text of the program's own, which is not copied.
fn constant(text: &'static str) -> StrBytes {
    let bytes = small::Bytes::from_static(text.as_bytes());
    StrBytes::try_from(bytes).expect("a string is UTF-8")
}

/// About what a setting takes in memory and in the answer.
fn len(row: &DescribeConfigsResourceResult) -> usize {
    let text = |text: &Option<StrBytes>| text.as_ref().map_or(0, |text| text.len());
    let synonyms = row.synonyms.iter().map(|row| 128 + row.name.len() + text(&row.value));
    256 + row.name.len() + text(&row.value) + text(&row.documentation) + synonyms.sum::<usize>()
}

/// `DescribeConfigsResponse.ConfigType`.
fn config_type(kind: Kind) -> i8 {
    match kind {
        Kind::Boolean => 1,
        Kind::String => 2,
        Kind::Int => 3,
        Kind::Short => 4,
        Kind::Long => 5,
        Kind::Double => 6,
        Kind::List => 7,
    }
}

pub(super) fn alter(call: &Call<'_>, body: &[u8]) -> Result<Outcome, WireError> {
    let request: AlterConfigsRequest = small::decode(body, call.version)?;
    let resources = request.resources.iter().map(|row| AlterResource {
        kind: ResourceType(row.resource_type),
        name: row.resource_name.as_str().to_owned(),
        change: ConfigChange::Replace(
            row.configs.iter().map(|row| (text(&row.name), row.value.as_ref().map(text))).collect(),
        ),
    });
    Ok(command(call, false, resources.collect(), request.validate_only))
}

pub(super) fn alter_incrementally(call: &Call<'_>, body: &[u8]) -> Result<Outcome, WireError> {
    let request: IncrementalAlterConfigsRequest = small::decode(body, call.version)?;
    let resources = request.resources.iter().map(|row| AlterResource {
        kind: ResourceType(row.resource_type),
        name: row.resource_name.as_str().to_owned(),
        change: ConfigChange::Each(
            row.configs
                .iter()
                .map(|row| (text(&row.name), row.config_operation, row.value.as_ref().map(text)))
                .collect(),
        ),
    });
    Ok(command(call, true, resources.collect(), request.validate_only))
}

fn text(text: &StrBytes) -> String {
    text.as_str().to_owned()
}

fn command(
    call: &Call<'_>,
    incremental: bool,
    resources: Vec<AlterResource>,
    validate_only: bool,
) -> Outcome {
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingAlter { version, correlation_id, incremental };
    Outcome::Command(
        Pending::AlterConfigs(pending),
        Command::AlterConfigs { resources, validate_only },
    )
}

impl PendingAlter {
    pub(super) fn respond(
        self,
        outcomes: Vec<AlterOutcome>,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let rows = outcomes.into_iter().map(|outcome| {
            let (code, message) = match outcome.result {
                Ok(()) => (ErrorCode::None, None),
                Err(refusal) => (refusal.code, Some(StrBytes::from(refusal.message))),
            };
            (outcome.kind.0, StrBytes::from(outcome.name), code.code(), message)
        });
        if self.incremental {
            let mut response = IncrementalAlterConfigsResponse::default();
            for (resource_type, resource_name, error_code, error_message) in rows {
                let mut row =
                    incremental_alter_configs_response::AlterConfigsResourceResponse::default();
                row.resource_type = resource_type;
                row.resource_name = resource_name;
                row.error_code = error_code;
                row.error_message = error_message;
                response.responses.push(row);
            }
            return super::encode_small(answer, self.correlation_id, self.version, &response);
        }
        let mut response = AlterConfigsResponse::default();
        for (resource_type, resource_name, error_code, error_message) in rows {
            let mut row = alter_configs_response::AlterConfigsResourceResponse::default();
            row.resource_type = resource_type;
            row.resource_name = resource_name;
            row.error_code = error_code;
            row.error_message = error_message;
            response.responses.push(row);
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}
