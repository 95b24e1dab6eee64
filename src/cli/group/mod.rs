//! `corelane group`: lists, describes, resets and deletes consumer groups.

pub mod consume;
mod coordinator;
mod describe;
mod member;
mod offsets;
mod reset;

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::coordinator::Coordinator;
use super::client::{Client, ClientError, Retry, Target};
use super::{CliError, Connect};
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;
use crate::wire::groups::list_groups_response::ListedGroup;
use crate::wire::groups::{DeleteGroupsRequest, ListGroupsRequest};
use crate::wire::small::StrBytes;

const LIST_VERSION_MAX: i16 = 5;
const DELETE_VERSION_MAX: i16 = 2;

/// Subcommands of `group`.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the groups.
    List(ListArgs),
    /// Show members, what they are assigned, committed offsets and how far behind they are.
    Describe(describe::DescribeArgs),
    /// Let a group without members go on from elsewhere; only shown without --execute.
    ResetOffsets(reset::ResetArgs),
    /// Delete groups without members, and their committed offsets.
    Delete(DeleteArgs),
}

/// Arguments of `group list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `group delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The groups.
    #[arg(required = true, value_name = "GROUP")]
    names: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Runs a subcommand.
pub fn run(command: &GroupCommand) -> Result<(), CliError> {
    match command {
        GroupCommand::List(args) => list(args),
        GroupCommand::Describe(args) => describe::run(args),
        GroupCommand::ResetOffsets(args) => reset::run(args),
        GroupCommand::Delete(args) => delete(args),
    }
}

/// All groups of all brokers, by name.
fn listed(client: &mut Client) -> Result<Vec<ListedGroup>, ClientError> {
    let brokers = client.metadata(Some(&[]), false)?.brokers;
    let mut rows = vec![];
    for broker in &brokers {
        let mut retry = Retry::start();
        loop {
            let target = Target::Node(NodeId(broker.node_id));
            let request = |_| ListGroupsRequest::default();
            let response = client.call(target, LIST_VERSION_MAX, Duration::ZERO, request)?;
            if response.error_code == 0 {
                rows.extend(response.groups);
                break;
            }
            let refused = ClientError::refused("cannot list the groups", response.error_code, None);
            if !refused.is_retriable() || !retry.wait() {
                return Err(refused);
            }
        }
    }
    rows.sort_by(|a, b| a.group_id.as_str().cmp(b.group_id.as_str()));
    Ok(rows)
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    let groups = listed(&mut client)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        let row = |group: &ListedGroup| {
            json!({
                "group": &*group.group_id,
                "state": &*group.group_state,
                "protocol_type": &*group.protocol_type,
                "type": &*group.group_type,
            })
        };
        writeln!(out, "{}", Value::from(groups.iter().map(row).collect::<Vec<_>>()))?;
    } else {
        for group in &groups {
            writeln!(out, "{}", &*group.group_id)?;
        }
    }
    out.flush()?;
    Ok(())
}

fn delete(args: &DeleteArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    let mut out = io::stdout().lock();
    for name in &args.names {
        let mut coordinator = Coordinator::of(name);
        let code = delete_one(&mut client, &mut coordinator)?;
        if code == ErrorCode::NonEmptyGroup.code() {
            return Err(CliError::Failed(format!(
                "group {name} has members; stop them first: {}",
                ErrorCode::name(code)
            )));
        }
        if code == ErrorCode::GroupIdNotFound.code() {
            return Err(no_group(name));
        }
        if code != 0 {
            let what = format!("cannot delete group {name}");
            return Err(ClientError::refused(what, code, None).into());
        }
        if args.json {
            writeln!(out, "{}", json!({ "group": name }))?;
        } else {
            writeln!(out, "deleted group {name}")?;
        }
    }
    Ok(())
}

fn delete_one(client: &mut Client, coordinator: &mut Coordinator) -> Result<i16, ClientError> {
    let name = StrBytes::from(coordinator.group());
    let build = |_| {
        let mut request = DeleteGroupsRequest::default();
        request.groups_names = vec![name.clone()];
        request
    };
    let missing = ErrorCode::UnknownServerError.code();
    let code = |answer: &crate::wire::groups::DeleteGroupsResponse| {
        answer.results.first().map_or(missing, |row| row.error_code)
    };
    let answer = coordinator.ask(client, DELETE_VERSION_MAX, Duration::ZERO, None, build, code)?;
    Ok(code(&answer))
}

fn no_group(name: &str) -> CliError {
    CliError::Failed(format!("group {name} does not exist; see `corelane group list`"))
}

/// Rows in columns that are as wide as they need to be, each line indented.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!(" {cell:<width$} "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [["a", "long", "c"], ["äöü", "b", ""]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        assert_eq!(table(&rows), "  a    long  c\n  äöü  b\n");
        assert_eq!(table(&[]), "");
    }
}
