//! `corelane topic`: creates, lists, describes, alters and deletes topics.

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientError, Retry, Target};
use super::{CliError, Connect, key_value, plural};
use crate::model::error_code::ErrorCode;
use crate::wire::small::describe_configs_response::DescribeConfigsResourceResult;
use crate::wire::small::metadata_response::MetadataResponseTopic;
use crate::wire::small::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest, StrBytes, create_partitions_request, create_topics_request,
    describe_configs_request, incremental_alter_configs_request, topic_id,
};

/// How long the cluster may take to agree.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Subcommands of `topic`.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic.
    Create(CreateArgs),
    /// List the topics.
    List(ListArgs),
    /// Show the partitions and settings of a topic, or of all topics.
    Describe(DescribeArgs),
    /// Change the settings of a topic, or give it more partitions.
    Alter(AlterArgs),
    /// Delete a topic and its records.
    Delete(DeleteArgs),
}

/// Arguments of `topic create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The topic.
    name: String,
    /// Number of partitions; the broker's num.partitions if not given.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Replicas of each partition; the broker's default.replication.factor if not given.
    #[arg(long, value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A setting of the topic; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `topic list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `topic describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// The topic; all of them if not given.
    name: Option<String>,
    /// Show all settings and where they come from, not only the topic's own.
    #[arg(long)]
    all_configs: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `topic alter`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct AlterArgs {
    /// The topic.
    name: String,
    /// A setting to set; may be repeated.
    #[arg(long, group = "change", value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// A setting to go by the broker's default again; may be repeated.
    #[arg(long, group = "change", value_name = "KEY")]
    delete_config: Vec<String>,
    /// Number of partitions to have in all; it can only grow.
    #[arg(long, group = "change", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Only check what would happen.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `topic delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The topic.
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Runs a subcommand.
pub fn run(command: &TopicCommand) -> Result<(), CliError> {
    match command {
        TopicCommand::Create(args) => create(args),
        TopicCommand::List(args) => list(args),
        TopicCommand::Describe(args) => describe(args),
        TopicCommand::Alter(args) => alter(args),
        TopicCommand::Delete(args) => delete(args),
    }
}

fn create(args: &CreateArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    let what = format!("cannot create topic {}", args.name);
    let topic = on_controller(&mut client, |client| {
        let response =
            client.call(Target::Controller, 7, TIMEOUT, |version| create_request(args, version))?;
        let topic = response.topics.into_iter().next().ok_or_else(|| {
            ClientError::refused(&what, ErrorCode::UnknownServerError.code(), None)
        })?;
        match topic.error_code {
            0 => Ok(topic),
            code => Err(ClientError::refused(&what, code, topic.error_message.as_ref())),
        }
    })?;
    let mut out = io::stdout().lock();
    let id = topic_id(topic.topic_id);
    if args.json {
        let created = json!({
            "name": args.name,
            "id": id.to_string(),
            "partitions": topic.num_partitions,
            "replication_factor": topic.replication_factor,
        });
        writeln!(out, "{created}")?;
    } else if topic.num_partitions > 0 {
        writeln!(
            out,
            "created topic {} (id {id}): {}, replication factor {}",
            args.name,
            plural(topic.num_partitions as usize, "partition"),
            topic.replication_factor
        )?;
    } else {
        writeln!(out, "created topic {}", args.name)?;
    }
    Ok(())
}

fn create_request(args: &CreateArgs, version: i16) -> CreateTopicsRequest {
    // Before version 4 the broker's defaults cannot be asked for.
    let default = if version >= 4 { -1 } else { 1 };
    let mut topic = create_topics_request::CreatableTopic::default();
    topic.name = StrBytes::from(args.name.as_str());
    topic.num_partitions = args.partitions.unwrap_or(default);
    topic.replication_factor = args.replication_factor.unwrap_or(default as i16);
    for (key, value) in &args.config {
        let mut config = create_topics_request::CreatableTopicConfig::default();
        config.name = StrBytes::from(key.as_str());
        config.value = Some(StrBytes::from(value.as_str()));
        topic.configs.push(config);
    }
    let mut request = CreateTopicsRequest::default();
    request.topics = vec![topic];
    request.timeout_ms = TIMEOUT.as_millis() as i32;
    request
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    let mut topics = client.metadata(None, false)?.topics;
    topics.sort_by(|a, b| a.name.as_deref().cmp(&b.name.as_deref()));
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        let rows: Vec<Value> = topics
            .iter()
            .map(|topic| {
                json!({
                    "name": name(topic),
                    "id": topic_id(topic.topic_id).to_string(),
                    "partitions": topic.partitions.len(),
                    "internal": topic.is_internal,
                })
            })
            .collect();
        writeln!(out, "{}", Value::from(rows))?;
    } else {
        for topic in &topics {
            writeln!(out, "{}", name(topic))?;
        }
    }
    out.flush()?;
    Ok(())
}

fn describe(args: &DescribeArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    let wanted = args.name.as_deref().map(|name| [name]);
    let mut topics = client.metadata(wanted.as_ref().map(|names| &names[..]), false)?.topics;
    topics.sort_by(|a, b| a.name.as_deref().cmp(&b.name.as_deref()));
    for topic in &mut topics {
        if let Some(name) = &args.name {
            check_described(topic, name)?;
        }
        topic.partitions.sort_by_key(|partition| partition.partition_index);
    }
    let configs = configs(&mut client, &topics, args.all_configs)?;
    let described_topics = topics.iter().zip(&configs);
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        let rows: Vec<Value> =
            described_topics.map(|(topic, configs)| described(topic, configs)).collect();
        writeln!(out, "{}", Value::from(rows))?;
    } else {
        for (topic, configs) in described_topics {
            write!(out, "{}", description(topic, configs, args.all_configs))?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Topics whose settings are asked for in one request.
const DESCRIBED_AT_ONCE: usize = 200;

/// Kafka's number of a topic among the resources that have settings.
const TOPIC: i8 = 2;

/// The settings of each topic: its own, or `all` there are.
fn configs(
    client: &mut Client,
    topics: &[MetadataResponseTopic],
    all: bool,
) -> Result<Vec<Vec<DescribeConfigsResourceResult>>, ClientError> {
    let mut configs = Vec::with_capacity(topics.len());
    for topics in topics.chunks(DESCRIBED_AT_ONCE) {
        let response = client.call(Target::Any, 4, TIMEOUT, |_| {
            let mut request = DescribeConfigsRequest::default();
            request.resources = topics
                .iter()
                .map(|topic| {
                    let mut resource = describe_configs_request::DescribeConfigsResource::default();
                    resource.resource_type = TOPIC;
                    resource.resource_name = topic.name.clone().unwrap_or_default();
                    resource.configuration_keys = None;
                    resource
                })
                .collect();
            request
        })?;
        for topic in topics {
            let what = format!("cannot describe the settings of topic {}", name(topic));
            let found = response.results.iter().find(|row| *row.resource_name == *name(topic));
            let Some(found) = found else {
                let code = ErrorCode::UnknownServerError.code();
                return Err(ClientError::refused(what, code, None));
            };
            if found.error_code != 0 {
                let message = found.error_message.as_ref();
                return Err(ClientError::refused(what, found.error_code, message));
            }
            let shown = found.configs.iter().filter(|row| all || row.config_source == OWN);
            configs.push(shown.cloned().collect());
        }
    }
    Ok(configs)
}

/// The source of a setting that is set for the topic.
const OWN: i8 = 1;

/// Kafka's name of where a setting comes from.
fn source(number: i8) -> &'static str {
    match number {
        OWN => "DYNAMIC_TOPIC_CONFIG",
        2 => "DYNAMIC_BROKER_CONFIG",
        3 => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        4 => "STATIC_BROKER_CONFIG",
        5 => "DEFAULT_CONFIG",
        _ => "UNKNOWN",
    }
}

fn alter(args: &AlterArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    let what = format!("cannot alter topic {}", args.name);
    let check = |code: i16, message: Option<&StrBytes>| match code {
        0 => Ok(()),
        code if code == ErrorCode::UnknownTopicOrPartition.code() => {
            Err(ClientError::NoTopic(args.name.clone()))
        }
        code => Err(ClientError::refused(&what, code, message)),
    };
    let none = || ClientError::refused(&what, ErrorCode::UnknownServerError.code(), None);
    if !args.config.is_empty() || !args.delete_config.is_empty() {
        on_controller(&mut client, |client| {
            let response =
                client.call(Target::Controller, 1, TIMEOUT, |_| alter_configs_request(args))?;
            let row = response.responses.first().ok_or_else(none)?;
            check(row.error_code, row.error_message.as_ref())
        })?;
    }
    if let Some(count) = args.partitions {
        on_controller(&mut client, |client| {
            let response = client.call(Target::Controller, 3, TIMEOUT, |_| {
                let mut topic = create_partitions_request::CreatePartitionsTopic::default();
                topic.name = StrBytes::from(args.name.as_str());
                topic.count = count;
                topic.assignments = None;
                let mut request = CreatePartitionsRequest::default();
                request.topics = vec![topic];
                request.timeout_ms = TIMEOUT.as_millis() as i32;
                request.validate_only = args.dry_run;
                request
            })?;
            let row = response.results.first().ok_or_else(none)?;
            check(row.error_code, row.error_message.as_ref())
        })?;
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "name": args.name, "dry_run": args.dry_run }))?;
    } else if args.dry_run {
        writeln!(out, "topic {} could be altered so", args.name)?;
    } else {
        writeln!(out, "altered topic {}", args.name)?;
    }
    Ok(())
}

fn alter_configs_request(args: &AlterArgs) -> IncrementalAlterConfigsRequest {
    // `AlterConfigOp.OpType`.
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let set = args.config.iter().map(|(key, value)| (key, SET, Some(value)));
    let delete = args.delete_config.iter().map(|key| (key, DELETE, None));
    let mut resource = incremental_alter_configs_request::AlterConfigsResource::default();
    resource.resource_type = TOPIC;
    resource.resource_name = StrBytes::from(args.name.as_str());
    for (key, operation, value) in set.chain(delete) {
        let mut row = incremental_alter_configs_request::AlterableConfig::default();
        row.name = StrBytes::from(key.as_str());
        row.config_operation = operation;
        row.value = value.map(|value| StrBytes::from(value.as_str()));
        resource.configs.push(row);
    }
    let mut request = IncrementalAlterConfigsRequest::default();
    request.resources = vec![resource];
    request.validate_only = args.dry_run;
    request
}

fn check_described(topic: &MetadataResponseTopic, name: &str) -> Result<(), ClientError> {
    match topic.error_code {
        0 => Ok(()),
        code if code == ErrorCode::UnknownTopicOrPartition.code() => {
            Err(ClientError::NoTopic(name.to_owned()))
        }
        code => Err(ClientError::refused(format!("topic {name}"), code, None)),
    }
}

fn described(topic: &MetadataResponseTopic, configs: &[DescribeConfigsResourceResult]) -> Value {
    let configs: Vec<Value> = configs
        .iter()
        .map(|row| {
            json!({
                "name": &*row.name,
                "value": row.value.as_deref(),
                "source": source(row.config_source),
            })
        })
        .collect();
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.partition_index,
                "error": (partition.error_code != 0).then(|| ErrorCode::name(partition.error_code)),
                "leader": (partition.leader_id >= 0).then_some(partition.leader_id),
                "leader_epoch": partition.leader_epoch,
                "replicas": partition.replica_nodes,
                "isr": partition.isr_nodes,
            })
        })
        .collect();
    json!({
        "name": name(topic),
        "id": topic_id(topic.topic_id).to_string(),
        "internal": topic.is_internal,
        "partitions": partitions,
        "configs": configs,
    })
}

fn description(
    topic: &MetadataResponseTopic,
    configs: &[DescribeConfigsResourceResult],
    sources: bool,
) -> String {
    let mut text = format!(
        "{} (id {}): {}\n",
        name(topic),
        topic_id(topic.topic_id),
        plural(topic.partitions.len(), "partition")
    );
    for partition in &topic.partitions {
        let leader = match partition.leader_id {
            leader @ 0.. => leader.to_string(),
            _ => "none".to_owned(),
        };
        text.push_str(&format!(
            "  partition {:<5} leader {leader:<5} epoch {:<5} replicas {:<10} in sync {}\n",
            partition.partition_index,
            partition.leader_epoch,
            ids(&partition.replica_nodes),
            ids(&partition.isr_nodes),
        ));
    }
    for row in configs {
        let value = row.value.as_deref().unwrap_or("(none)");
        text.push_str(&format!("  config {}={value}", &*row.name));
        if sources {
            text.push_str(&format!("  {}", source(row.config_source)));
        }
        text.push('\n');
    }
    text
}

fn ids(nodes: &[i32]) -> String {
    nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

fn name(topic: &MetadataResponseTopic) -> &str {
    topic.name.as_deref().unwrap_or_default()
}

fn delete(args: &DeleteArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    on_controller(&mut client, |client| {
        // Names are in a list of their own up to version 5.
        let response = client.call(Target::Controller, 5, TIMEOUT, |_| {
            let mut request = DeleteTopicsRequest::default();
            request.topic_names = vec![StrBytes::from(args.name.as_str())];
            request.timeout_ms = TIMEOUT.as_millis() as i32;
            request
        })?;
        let what = format!("cannot delete topic {}", args.name);
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        match response.responses.first() {
            Some(topic) if topic.error_code == 0 => Ok(()),
            Some(topic) if topic.error_code == unknown => {
                Err(ClientError::NoTopic(args.name.clone()))
            }
            Some(topic) => {
                Err(ClientError::refused(what, topic.error_code, topic.error_message.as_ref()))
            }
            None => Err(ClientError::refused(what, ErrorCode::UnknownServerError.code(), None)),
        }
    })?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "name": args.name }))?;
    } else {
        writeln!(out, "deleted topic {}", args.name)?;
    }
    Ok(())
}

/// Asks the controller, again and of a new one while that may help.
fn on_controller<T>(
    client: &mut Client,
    mut ask: impl FnMut(&mut Client) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let mut retry = Retry::start();
    loop {
        client.metadata(Some(&[]), false)?;
        match ask(client) {
            Err(error) if error.is_retriable() && retry.wait() => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::small::{Uuid, metadata_response};

    #[test]
    fn a_request_carries_what_was_asked_for() {
        let args = CreateArgs {
            name: "t".to_owned(),
            partitions: Some(3),
            replication_factor: None,
            config: vec![("flush.messages".to_owned(), "1".to_owned())],
            json: false,
            connect: Connect { bootstrap: String::new() },
        };
        let request = create_request(&args, 7);
        let topic = &request.topics[0];
        assert_eq!((topic.num_partitions, topic.replication_factor), (3, -1));
        assert_eq!(topic.configs[0].name.as_str(), "flush.messages");
        assert_eq!(create_request(&args, 3).topics[0].replication_factor, 1);
    }

    #[test]
    fn a_topic_as_people_and_programs_see_it() {
        let mut partition = metadata_response::MetadataResponsePartition::default();
        partition.leader_id = 1;
        partition.leader_epoch = 2;
        partition.replica_nodes = vec![1, 2];
        partition.isr_nodes = vec![1];
        let mut orphan = metadata_response::MetadataResponsePartition::default();
        orphan.partition_index = 1;
        orphan.leader_id = -1;
        orphan.error_code = 5;
        let mut topic = MetadataResponseTopic::default();
        topic.name = Some(StrBytes::from("t"));
        topic.topic_id = Uuid::from_bytes([0; 16]);
        topic.partitions = vec![partition, orphan];
        let mut config = DescribeConfigsResourceResult::default();
        config.name = StrBytes::from("flush.ms");
        config.value = Some(StrBytes::from("5"));
        config.config_source = 1;
        let text = description(&topic, std::slice::from_ref(&config), false);
        assert_eq!(text.lines().count(), 4);
        assert!(text.ends_with("  config flush.ms=5\n"), "{text}");
        assert!(text.starts_with("t (id AAAAAAAAAAAAAAAAAAAAAA): 2 partitions\n"), "{text}");
        assert!(text.contains("replicas 1,2") && text.contains("leader none"), "{text}");
        let json = described(&topic, &[config]);
        assert_eq!(json["configs"][0]["source"], json!("DYNAMIC_TOPIC_CONFIG"));
        assert_eq!(json["partitions"][0]["isr"], json!([1]));
        assert_eq!(json["partitions"][1]["error"], json!("LEADER_NOT_AVAILABLE"));
        assert_eq!(json["partitions"][1]["leader"], Value::Null);
    }
}
