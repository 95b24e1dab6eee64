//! `corelane topic`: creates, lists, describes and deletes topics.

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientError, Retry, Target};
use super::{CliError, Connect, plural};
use crate::model::error_code::ErrorCode;
use crate::wire::small::metadata_response::MetadataResponseTopic;
use crate::wire::small::{
    CreateTopicsRequest, DeleteTopicsRequest, StrBytes, create_topics_request, topic_id,
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
    /// Show the partitions of a topic, or of all topics.
    Describe(DescribeArgs),
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
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::key_value)]
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
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        let rows: Vec<Value> = topics.iter().map(described).collect();
        writeln!(out, "{}", Value::from(rows))?;
    } else {
        for topic in &topics {
            write!(out, "{}", description(topic))?;
        }
    }
    out.flush()?;
    Ok(())
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

fn described(topic: &MetadataResponseTopic) -> Value {
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
    })
}

fn description(topic: &MetadataResponseTopic) -> String {
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
        let text = description(&topic);
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("t (id AAAAAAAAAAAAAAAAAAAAAA): 2 partitions\n"), "{text}");
        assert!(text.contains("replicas 1,2") && text.contains("leader none"), "{text}");
        let json = described(&topic);
        assert_eq!(json["partitions"][0]["isr"], json!([1]));
        assert_eq!(json["partitions"][1]["error"], json!("LEADER_NOT_AVAILABLE"));
        assert_eq!(json["partitions"][1]["leader"], Value::Null);
    }
}
