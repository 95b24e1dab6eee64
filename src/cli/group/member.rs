//! A member of a consumer group, by the classic protocol: one topic, the range
//! assignor, eager rebalances.
//!
//! States: *outside*, without an assignment; *inside*, with one of a generation.
//! [`Member::join`] leads inside. A refused heartbeat or commit leads outside:
//! with the member's id if the others only rebalance, without it if the
//! coordinator does not know it any more. It has no thread: whoever has it calls
//! [`Member::heartbeat`] when that is due.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::super::client::{Client, ClientError};
use super::coordinator::Coordinator;
use super::offsets::{self, Committer, Place};
use crate::model::error_code::ErrorCode;
use crate::wire::groups::{
    Assignment, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse, decode_assignment,
    encode_assignment, encode_subscription, join_group_request, join_group_response,
    subscribed_topics, sync_group_request,
};
use crate::wire::small::{Bytes, StrBytes};

/// Later versions have what static members and explanations need.
const JOIN_VERSION_MAX: i16 = 5;
/// Version 5 tells the protocol, to have it checked.
const SYNC_VERSION_MAX: i16 = 4;
const HEARTBEAT_VERSION_MAX: i16 = 4;
/// Version 3 is for several members at once.
const LEAVE_VERSION_MAX: i16 = 2;

/// Kafka's defaults of `session.timeout.ms` and `heartbeat.interval.ms`.
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// How long the others wait for this member, which is between two polls soon.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long this member waits for the others, which may have much to do.
const OTHERS_PATIENCE: Duration = Duration::from_secs(600);
/// How often the leader looks whether topics have got more partitions.
const PARTITIONS_LOOK: Duration = Duration::from_secs(30);

const CONSUMER: &str = "consumer";
const RANGE: &str = "range";

/// A member.
#[derive(Debug)]
pub struct Member {
    coordinator: Coordinator,
    topic: String,
    /// Empty until the coordinator gives one.
    id: StrBytes,
    generation: i32,
    heartbeat_due: Instant,
    /// What the assignment was made for, if this member leads: topics and how
    /// many partitions they had.
    leads: Option<BTreeMap<String, usize>>,
    look_due: Instant,
}

impl Member {
    /// One that has not joined.
    pub fn new(group: &str, topic: &str) -> Self {
        Self {
            coordinator: Coordinator::of(group),
            topic: topic.to_owned(),
            id: StrBytes::from(""),
            generation: -1,
            heartbeat_due: Instant::now(),
            leads: None,
            look_due: Instant::now(),
        }
    }

    /// Takes part in the next generation, and returns the partitions of the topic
    /// that are this member's in it. Waits for the other members; `stop` ends that.
    ///
    /// # Errors
    /// The group does not take this member, or the coordinator is not reached.
    pub fn join(
        &mut self,
        client: &mut Client,
        stop: &AtomicBool,
    ) -> Result<Vec<i32>, ClientError> {
        loop {
            let Some(joined) = self.ask_to_join(client, stop)? else { continue };
            let assignments = if joined.leader == joined.member_id {
                self.assign(client, &joined.members)?
            } else {
                self.leads = None;
                vec![]
            };
            if let Some(assignment) = self.sync(client, stop, &assignments)? {
                let mut assignment = decode_assignment(&assignment)
                    .map_err(|source| self.nonsense("an assignment", &source.to_string()))?;
                let mut partitions = assignment.remove(&self.topic).unwrap_or_default();
                partitions.sort_unstable();
                self.heartbeat_due = Instant::now() + HEARTBEAT_INTERVAL;
                return Ok(partitions);
            }
        }
    }

    /// None if it has to be tried again.
    fn ask_to_join(
        &mut self,
        client: &mut Client,
        stop: &AtomicBool,
    ) -> Result<Option<JoinGroupResponse>, ClientError> {
        let mut protocol = join_group_request::JoinGroupRequestProtocol::default();
        protocol.name = StrBytes::from(RANGE);
        protocol.metadata = Bytes::from(encode_subscription(&[&self.topic]));
        let mut request = JoinGroupRequest::default();
        request.group_id = StrBytes::from(self.coordinator.group());
        request.session_timeout_ms = SESSION_TIMEOUT.as_millis() as i32;
        request.rebalance_timeout_ms = REBALANCE_TIMEOUT.as_millis() as i32;
        request.member_id = self.id.clone();
        request.protocol_type = StrBytes::from(CONSUMER);
        request.protocols = vec![protocol];
        let answer = self.coordinator.ask(
            client,
            JOIN_VERSION_MAX,
            OTHERS_PATIENCE,
            Some(stop),
            |_| request.clone(),
            |answer: &JoinGroupResponse| answer.error_code,
        )?;
        self.check(answer.error_code, "join")?;
        if answer.error_code == ErrorCode::MemberIdRequired.code() {
            self.id = answer.member_id;
            return Ok(None);
        }
        if answer.error_code != 0 {
            return Ok(None);
        }
        (self.id, self.generation) = (answer.member_id.clone(), answer.generation_id);
        Ok(Some(answer))
    }

    /// As the leader: what each member gets. `members` are all there are.
    fn assign(
        &mut self,
        client: &mut Client,
        members: &[join_group_response::JoinGroupResponseMember],
    ) -> Result<Vec<(StrBytes, Assignment)>, ClientError> {
        let mut subscribers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for member in members {
            let topics = subscribed_topics(&member.metadata)
                .map_err(|source| self.nonsense("a subscription", &source.to_string()))?;
            for topic in topics {
                subscribers.entry(topic).or_default().push(member.member_id.as_str());
            }
        }
        let topics: Vec<&str> = subscribers.keys().copied().collect();
        let counts = partition_counts(client, &topics)?;
        let mut assignments: BTreeMap<&str, Assignment> = BTreeMap::new();
        for (topic, mut subscribers) in subscribers {
            let count = counts.get(topic).copied().unwrap_or(0);
            subscribers.sort_unstable();
            for (member, partitions) in range(&subscribers, count) {
                let assignment = assignments.entry(member).or_default();
                assignment.insert(topic.to_owned(), partitions);
            }
        }
        self.leads = Some(counts);
        self.look_due = Instant::now() + PARTITIONS_LOOK;
        let rows = members.iter().map(|member| {
            let assignment = assignments.remove(member.member_id.as_str()).unwrap_or_default();
            (member.member_id.clone(), assignment)
        });
        Ok(rows.collect())
    }

    /// None if it has to be tried again from the start.
    fn sync(
        &mut self,
        client: &mut Client,
        stop: &AtomicBool,
        assignments: &[(StrBytes, Assignment)],
    ) -> Result<Option<Bytes>, ClientError> {
        let mut request = SyncGroupRequest::default();
        request.group_id = StrBytes::from(self.coordinator.group());
        request.generation_id = self.generation;
        request.member_id = self.id.clone();
        for (member, assignment) in assignments {
            let mut row = sync_group_request::SyncGroupRequestAssignment::default();
            row.member_id = member.clone();
            row.assignment = Bytes::from(encode_assignment(assignment));
            request.assignments.push(row);
        }
        let answer = self.coordinator.ask(
            client,
            SYNC_VERSION_MAX,
            OTHERS_PATIENCE,
            Some(stop),
            |_| request.clone(),
            |answer: &SyncGroupResponse| answer.error_code,
        )?;
        self.check(answer.error_code, "sync with")?;
        Ok((answer.error_code == 0).then_some(answer.assignment))
    }

    /// Whether the member is still inside after an answer with this code: an
    /// error if it cannot be.
    fn check(&mut self, code: i16, what: &str) -> Result<bool, ClientError> {
        const OUTSIDE: [ErrorCode; 2] =
            [ErrorCode::RebalanceInProgress, ErrorCode::MemberIdRequired];
        const UNKNOWN: [ErrorCode; 2] = [ErrorCode::IllegalGeneration, ErrorCode::UnknownMemberId];
        if code == 0 {
            return Ok(true);
        }
        if UNKNOWN.iter().any(|unknown| unknown.code() == code) {
            self.id = StrBytes::from("");
            return Ok(false);
        }
        if OUTSIDE.iter().any(|outside| outside.code() == code) {
            return Ok(false);
        }
        let what = format!("cannot {what} group {}", self.coordinator.group());
        Err(ClientError::refused(what, code, None))
    }

    fn nonsense(&self, what: &str, why: &str) -> ClientError {
        let what = format!("{what} in group {} cannot be read: {why}", self.coordinator.group());
        ClientError::refused(what, ErrorCode::InconsistentGroupProtocol.code(), None)
    }

    /// Tells the coordinator that this member is there, if that is due. False if
    /// it has to join again; what it has read can be committed before.
    ///
    /// # Errors
    /// The coordinator is not reached.
    pub fn heartbeat(&mut self, client: &mut Client) -> Result<bool, ClientError> {
        if Instant::now() < self.heartbeat_due {
            return Ok(true);
        }
        let mut request = HeartbeatRequest::default();
        request.group_id = StrBytes::from(self.coordinator.group());
        request.generation_id = self.generation;
        request.member_id = self.id.clone();
        let answer = self.coordinator.ask(
            client,
            HEARTBEAT_VERSION_MAX,
            Duration::ZERO,
            None,
            |_| request.clone(),
            |answer: &HeartbeatResponse| answer.error_code,
        )?;
        self.heartbeat_due = Instant::now() + HEARTBEAT_INTERVAL;
        Ok(self.check(answer.error_code, "stay in")? && !self.has_more_partitions(client)?)
    }

    /// Whether this member leads and has something new to assign.
    fn has_more_partitions(&mut self, client: &mut Client) -> Result<bool, ClientError> {
        let Some(known) = &self.leads else { return Ok(false) };
        if Instant::now() < self.look_due {
            return Ok(false);
        }
        let topics: Vec<&str> = known.keys().map(String::as_str).collect();
        let counts = partition_counts(client, &topics)?;
        self.look_due = Instant::now() + PARTITIONS_LOOK;
        Ok(counts != *known)
    }

    /// What the group has committed of these partitions of the topic.
    ///
    /// # Errors
    /// The coordinator is not reached, or refuses.
    pub fn committed(
        &mut self,
        client: &mut Client,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, ClientError> {
        let mut all = offsets::committed(client, &mut self.coordinator)?;
        let row = |partition: &i32| {
            let row = all.remove(&(self.topic.clone(), *partition))?;
            Some((*partition, row.committed_offset))
        };
        Ok(partitions.iter().filter_map(row).collect())
    }

    /// Commits offsets of the topic. False if that was refused because this member
    /// has to join again; they are not committed then.
    ///
    /// # Errors
    /// The coordinator is not reached, or refuses for another reason.
    pub fn commit(
        &mut self,
        client: &mut Client,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<bool, ClientError> {
        let offsets: BTreeMap<Place, i64> = offsets
            .iter()
            .map(|(partition, offset)| ((self.topic.clone(), *partition), *offset))
            .collect();
        let id = self.id.to_string();
        let who = Committer { member_id: &id, generation: self.generation };
        let code = offsets::commit(client, &mut self.coordinator, who, &offsets)?;
        self.check(code, "commit to")
    }

    /// Leaves the group, so that the others need not miss this member first.
    ///
    /// # Errors
    /// The coordinator is not reached, or refuses.
    pub fn leave(&mut self, client: &mut Client) -> Result<(), ClientError> {
        if self.id.is_empty() {
            return Ok(());
        }
        let mut request = LeaveGroupRequest::default();
        request.group_id = StrBytes::from(self.coordinator.group());
        request.member_id = self.id.clone();
        let answer = self.coordinator.ask(
            client,
            LEAVE_VERSION_MAX,
            Duration::ZERO,
            None,
            |_| request.clone(),
            |answer: &LeaveGroupResponse| answer.error_code,
        )?;
        self.check(answer.error_code, "leave").map(drop)
    }
}

/// How many partitions topics have; those that do not exist are left out.
fn partition_counts(
    client: &mut Client,
    topics: &[&str],
) -> Result<BTreeMap<String, usize>, ClientError> {
    let found = client.metadata(Some(topics), false)?.topics;
    let there = found.into_iter().filter(|topic| topic.error_code == 0);
    let count = |topic: crate::wire::small::metadata_response::MetadataResponseTopic| {
        (topic.name.as_deref().unwrap_or_default().to_owned(), topic.partitions.len())
    };
    Ok(there.map(count).collect())
}

/// Shares `count` partitions in ranges, the first members getting one more if it
/// does not come out even (Kafka's `RangeAssignor.java`).
fn range<'a>(members: &[&'a str], count: usize) -> Vec<(&'a str, Vec<i32>)> {
    let (each, more) = (count / members.len().max(1), count % members.len().max(1));
    let mut next = 0;
    let share = |(at, member): (usize, &&'a str)| {
        let first = next;
        next += each + usize::from(at < more);
        (*member, (first as i32..next as i32).collect())
    };
    members
        .iter()
        .enumerate()
        .map(share)
        .filter(|(_, partitions): &(_, Vec<i32>)| !partitions.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kafkas() {
        type Shares = &'static [(&'static str, &'static [i32])];
        let table: [(&[&str], usize, Shares); 5] = [
            (&["a", "b"], 3, &[("a", &[0, 1]), ("b", &[2])]),
            (&["a", "b"], 4, &[("a", &[0, 1]), ("b", &[2, 3])]),
            (&["a", "b", "c"], 2, &[("a", &[0]), ("b", &[1])]),
            (&["a"], 0, &[]),
            (&[], 5, &[]),
        ];
        for (members, count, expected) in table {
            let expected: Vec<(&str, Vec<i32>)> = expected
                .iter()
                .map(|(member, partitions)| (*member, partitions.to_vec()))
                .collect();
            assert_eq!(range(members, count), expected);
        }
    }
}
