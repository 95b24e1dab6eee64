//! `corelane group describe`: who is in a group and how far it has come.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::client::{Client, ClientError};
use super::super::{CliError, Connect, plural};
use super::coordinator::Coordinator;
use super::offsets::{LATEST, Place, at_time, committed};
use super::{listed, no_group, table};
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;
use crate::wire::groups::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use crate::wire::groups::{
    Assignment, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribeGroupsRequest,
    DescribeGroupsResponse, consumer_group_describe_response, decode_assignment, encode_assignment,
};
use crate::wire::small::StrBytes;

/// Version 6 has an error for groups that do not exist.
const DESCRIBE_VERSION_MAX: i16 = 6;

/// The highest version of ConsumerGroupDescribe that this knows.
const DESCRIBE_CONSUMERS_VERSION_MAX: i16 = 1;

/// The protocol type of consumers, whose assignments can be read.
const CONSUMER: &str = "consumer";

/// Arguments of `group describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// The groups; all of them if none is given.
    #[arg(value_name = "GROUP")]
    names: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// A group, its members and its offsets.
struct Description {
    group: DescribedGroup,
    coordinator: NodeId,
    members: Vec<Member>,
    partitions: Vec<Partition>,
}

struct Member {
    id: String,
    instance: Option<String>,
    client: String,
    host: String,
    assignment: Assignment,
}

/// A partition that has an owner, or a committed offset.
struct Partition {
    place: Place,
    /// The next offset to read, if one is committed.
    offset: Option<i64>,
    metadata: String,
    /// The partition's end, if it exists.
    end: Option<i64>,
    /// Id of the member that is assigned it.
    owner: Option<String>,
}

impl Partition {
    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.offset?).max(0))
    }
}

/// Prints what there is to know of groups.
pub fn run(args: &DescribeArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    let names = if args.names.is_empty() {
        listed(&mut client)?.iter().map(|row| row.group_id.to_string()).collect()
    } else {
        args.names.clone()
    };
    let mut descriptions = vec![];
    for name in &names {
        descriptions.push(describe(&mut client, name)?);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        let rows: Vec<Value> = descriptions.iter().map(Description::json).collect();
        writeln!(out, "{}", Value::from(rows))?;
    } else {
        for description in &descriptions {
            write!(out, "{}", description.text())?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The group as its coordinator tells it, `None` if there is none.
pub fn look_up(
    client: &mut Client,
    coordinator: &mut Coordinator,
) -> Result<Option<DescribedGroup>, ClientError> {
    let name = StrBytes::from(coordinator.group());
    let what = format!("cannot describe group {name}");
    let build = |_| {
        let mut request = DescribeGroupsRequest::default();
        request.groups = vec![name.clone()];
        request
    };
    let missing = ErrorCode::UnknownServerError.code();
    let code = |answer: &DescribeGroupsResponse| {
        answer.groups.first().map_or(missing, |row| row.error_code)
    };
    let mut answer =
        coordinator.ask(client, DESCRIBE_VERSION_MAX, Duration::ZERO, None, build, code)?;
    match (code(&answer), answer.groups.pop()) {
        (0, group) => Ok(group.filter(|group| group.group_state.as_str() != "Dead")),
        (code, _) if code == ErrorCode::GroupIdNotFound.code() => {
            look_up_consumers(client, coordinator)
        }
        (code, _) => Err(ClientError::refused(what, code, None)),
    }
}

/// As [`look_up`] for a group of the consumer protocol, in the words of the classic
/// one.
fn look_up_consumers(
    client: &mut Client,
    coordinator: &mut Coordinator,
) -> Result<Option<DescribedGroup>, ClientError> {
    let name = StrBytes::from(coordinator.group());
    let what = format!("cannot describe group {name}");
    let build = |_| {
        let mut request = ConsumerGroupDescribeRequest::default();
        request.group_ids = vec![name.clone()];
        request
    };
    let missing = ErrorCode::UnknownServerError.code();
    let code = |answer: &ConsumerGroupDescribeResponse| {
        answer.groups.first().map_or(missing, |row| row.error_code)
    };
    let mut answer = coordinator.ask(
        client,
        DESCRIBE_CONSUMERS_VERSION_MAX,
        Duration::ZERO,
        None,
        build,
        code,
    )?;
    match (code(&answer), answer.groups.pop()) {
        (0, group) => Ok(group.map(in_classic_words)),
        (code, _) if code == ErrorCode::GroupIdNotFound.code() => Ok(None),
        (code, _) => Err(ClientError::refused(what, code, None)),
    }
}

fn in_classic_words(group: consumer_group_describe_response::DescribedGroup) -> DescribedGroup {
    let mut out = DescribedGroup::default();
    out.group_id = group.group_id;
    out.group_state = group.group_state;
    out.protocol_type = StrBytes::from(CONSUMER);
    out.protocol_data = group.assignor_name;
    for member in group.members {
        let rows = member.assignment.topic_partitions.into_iter();
        let assignment: Assignment =
            rows.map(|row| (row.topic_name.to_string(), row.partitions)).collect();
        let mut cell = DescribedGroupMember::default();
        cell.member_id = member.member_id;
        cell.group_instance_id = member.instance_id;
        cell.client_id = member.client_id;
        cell.client_host = member.client_host;
        cell.member_assignment = encode_assignment(&assignment).into();
        out.members.push(cell);
    }
    out
}

fn describe(client: &mut Client, name: &str) -> Result<Description, CliError> {
    let mut coordinator = Coordinator::of(name);
    let group = look_up(client, &mut coordinator)?.ok_or_else(|| no_group(name))?;
    let offsets = committed(client, &mut coordinator)?;
    let members = members(&group)?;
    let mut owners = BTreeMap::new();
    for member in &members {
        for (topic, partitions) in &member.assignment {
            owners.extend(partitions.iter().map(|n| ((topic.clone(), *n), member.id.clone())));
        }
    }
    let places: BTreeSet<Place> = owners.keys().chain(offsets.keys()).cloned().collect();
    let ends = at_time(client, &places, LATEST)?;
    let partitions = places.into_iter().map(|place| Partition {
        offset: offsets.get(&place).map(|row| row.committed_offset),
        metadata: offsets
            .get(&place)
            .and_then(|row| row.metadata.as_deref())
            .unwrap_or_default()
            .to_owned(),
        end: ends.get(&place).copied(),
        owner: owners.get(&place).cloned(),
        place,
    });
    let partitions = partitions.collect();
    Ok(Description { coordinator: coordinator.find(client)?, group, members, partitions })
}

fn members(group: &DescribedGroup) -> Result<Vec<Member>, CliError> {
    let consumers = group.protocol_type.as_str() == CONSUMER;
    let row = |row: &crate::wire::groups::describe_groups_response::DescribedGroupMember| {
        let assignment = if consumers {
            decode_assignment(&row.member_assignment).map_err(|error| {
                CliError::Failed(format!("the assignment of member {}: {error}", &*row.member_id))
            })?
        } else {
            Assignment::new()
        };
        Ok(Member {
            id: row.member_id.to_string(),
            instance: row.group_instance_id.as_ref().map(ToString::to_string),
            client: row.client_id.to_string(),
            host: row.client_host.trim_start_matches('/').to_owned(),
            assignment,
        })
    };
    group.members.iter().map(row).collect()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `t 0,2; u 1`.
fn assignment_text(assignment: &Assignment) -> String {
    let topics = assignment.iter().map(|(topic, partitions)| {
        let mut partitions = partitions.clone();
        partitions.sort_unstable();
        let numbers: Vec<String> = partitions.iter().map(i32::to_string).collect();
        format!("{topic} {}", numbers.join(","))
    });
    let topics: Vec<String> = topics.collect();
    if topics.is_empty() { "-".to_owned() } else { topics.join("; ") }
}

impl Description {
    fn text(&self) -> String {
        let mut text = format!(
            "{}: {}, {}",
            &*self.group.group_id,
            &*self.group.group_state,
            plural(self.members.len(), "member")
        );
        if !self.group.protocol_data.is_empty() {
            text.push_str(&format!(", assignor {}", &*self.group.protocol_data));
        }
        text.push_str(&format!(", coordinator {}\n", self.coordinator));
        if !self.members.is_empty() {
            let head = ["member", "client", "host", "assigned"].map(str::to_owned).to_vec();
            let rows = self.members.iter().map(|member| {
                let id = match &member.instance {
                    Some(instance) => format!("{} (instance {instance})", member.id),
                    None => member.id.clone(),
                };
                let assigned = assignment_text(&member.assignment);
                vec![id, member.client.clone(), member.host.clone(), assigned]
            });
            text.push_str(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
        }
        if !self.partitions.is_empty() {
            let head = ["topic", "partition", "offset", "end", "lag", "member"];
            let rows = self.partitions.iter().map(|row| {
                let (topic, partition) = &row.place;
                vec![
                    topic.clone(),
                    partition.to_string(),
                    or_dash(row.offset),
                    or_dash(row.end),
                    or_dash(row.lag()),
                    or_dash(row.owner.as_ref()),
                ]
            });
            let head = head.map(str::to_owned).to_vec();
            text.push_str(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
        }
        text
    }

    fn json(&self) -> Value {
        let members = self.members.iter().map(|member| {
            json!({
                "member": member.id,
                "instance": member.instance,
                "client": member.client,
                "host": member.host,
                "assignment": member.assignment,
            })
        });
        let partitions = self.partitions.iter().map(|row| {
            json!({
                "topic": row.place.0,
                "partition": row.place.1,
                "offset": row.offset,
                "metadata": row.metadata,
                "end": row.end,
                "lag": row.lag(),
                "member": row.owner,
            })
        });
        json!({
            "group": &*self.group.group_id,
            "state": &*self.group.group_state,
            "protocol_type": &*self.group.protocol_type,
            "assignor": &*self.group.protocol_data,
            "coordinator": self.coordinator.0,
            "members": members.collect::<Vec<_>>(),
            "partitions": partitions.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_as_people_and_programs_see_it() {
        let mut group = DescribedGroup::default();
        group.group_id = StrBytes::from("team");
        group.group_state = StrBytes::from("Stable");
        group.protocol_data = StrBytes::from("range");
        let member = Member {
            id: "m-1".to_owned(),
            instance: Some("i".to_owned()),
            client: "c".to_owned(),
            host: "127.0.0.1".to_owned(),
            assignment: [("t".to_owned(), vec![2, 0]), ("u".to_owned(), vec![1])].into(),
        };
        let partition = |n: i32, offset: Option<i64>, end: Option<i64>, owner: bool| Partition {
            place: ("t".to_owned(), n),
            offset,
            metadata: String::new(),
            end,
            owner: owner.then(|| "m-1".to_owned()),
        };
        let description = Description {
            group,
            coordinator: NodeId(1),
            members: vec![member],
            partitions: vec![
                partition(0, Some(5), Some(12), true),
                partition(1, Some(5), None, false),
                partition(2, None, Some(3), true),
            ],
        };
        let text = "team: Stable, 1 member, assignor range, coordinator 1\n\
            \x20 member            client  host       assigned\n\
            \x20 m-1 (instance i)  c       127.0.0.1  t 0,2; u 1\n\
            \x20 topic  partition  offset  end  lag  member\n\
            \x20 t      0          5       12   7    m-1\n\
            \x20 t      1          5       -    -    -\n\
            \x20 t      2          -       3    -    m-1\n";
        assert_eq!(description.text(), text);
        let json = description.json();
        assert_eq!(json["members"][0]["assignment"]["t"], json!([2, 0]));
        assert_eq!((&json["partitions"][0]["lag"], &json["coordinator"]), (&json!(7), &json!(1)));
        assert_eq!(json["partitions"][1]["end"], Value::Null);
    }
}
