//! The table of APIs: what is advertised, what is served, and how much of a
//! frame each may send.
//!
//! Minimum versions are Kafka 4's own and never rise. Produce is advertised
//! from 0 and served from 3: older librdkafka switches compression off when
//! version 0 is missing (KAFKA-18659).

use super::WireError;
use crate::base::limits::SMALL_FRAME_MAX;

/// The number of an API that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
#[expect(missing_docs, reason = "the names are Kafka's own")]
pub enum ApiKey {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    DescribeLogDirs = 35,
    CreatePartitions = 37,
    DeleteGroups = 42,
    IncrementalAlterConfigs = 44,
    ListPartitionReassignments = 46,
    OffsetDelete = 47,
    DescribeClientQuotas = 48,
    DescribeUserScramCredentials = 50,
    DescribeCluster = 60,
    ConsumerGroupHeartbeat = 68,
    ConsumerGroupDescribe = 69,
    ListConfigResources = 74,
    DescribeTopicPartitions = 75,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// Its number.
    pub key: ApiKey,
    /// Kafka's name for it.
    pub name: &'static str,
    /// Lowest version that is advertised.
    pub min: i16,
    /// Highest version that is advertised and served.
    pub max: i16,
    /// Lowest version that is served.
    pub served_min: i16,
    /// First version in the flexible encoding (KIP-482).
    pub flexible_from: i16,
    /// Largest request in bytes; `None` is `socket.request.max.bytes`.
    pub frame_max: Option<usize>,
}

/// In place of the first flexible version of an API that has none.
const NEVER: i16 = i16::MAX;

const fn row(key: ApiKey, name: &'static str, min: i16, max: i16, flexible_from: i16) -> Api {
    Api { key, name, min, max, served_min: min, flexible_from, frame_max: Some(SMALL_FRAME_MAX) }
}

/// Every API that is served, by number.
pub const APIS: &[Api] = &[
    Api { served_min: 3, frame_max: None, ..row(ApiKey::Produce, "Produce", 0, 13, 9) },
    row(ApiKey::Fetch, "Fetch", 4, 18, 12),
    row(ApiKey::ListOffsets, "ListOffsets", 1, 11, 6),
    row(ApiKey::Metadata, "Metadata", 0, 13, 9),
    row(ApiKey::OffsetCommit, "OffsetCommit", 2, 10, 8),
    row(ApiKey::OffsetFetch, "OffsetFetch", 1, 10, 6),
    row(ApiKey::FindCoordinator, "FindCoordinator", 0, 6, 3),
    row(ApiKey::JoinGroup, "JoinGroup", 0, 9, 6),
    row(ApiKey::Heartbeat, "Heartbeat", 0, 4, 4),
    row(ApiKey::LeaveGroup, "LeaveGroup", 0, 5, 4),
    row(ApiKey::SyncGroup, "SyncGroup", 0, 5, 4),
    row(ApiKey::DescribeGroups, "DescribeGroups", 0, 6, 5),
    row(ApiKey::ListGroups, "ListGroups", 0, 5, 3),
    row(ApiKey::ApiVersions, "ApiVersions", 0, 5, 3),
    row(ApiKey::CreateTopics, "CreateTopics", 2, 7, 5),
    row(ApiKey::DeleteTopics, "DeleteTopics", 1, 6, 4),
    row(ApiKey::DeleteRecords, "DeleteRecords", 0, 2, 2),
    row(ApiKey::InitProducerId, "InitProducerId", 0, 5, 2),
    row(ApiKey::OffsetForLeaderEpoch, "OffsetForLeaderEpoch", 2, 4, 4),
    row(ApiKey::DescribeConfigs, "DescribeConfigs", 1, 4, 4),
    row(ApiKey::AlterConfigs, "AlterConfigs", 0, 2, 2),
    row(ApiKey::DescribeLogDirs, "DescribeLogDirs", 1, 5, 2),
    row(ApiKey::CreatePartitions, "CreatePartitions", 0, 3, 2),
    row(ApiKey::DeleteGroups, "DeleteGroups", 0, 3, 2),
    row(ApiKey::IncrementalAlterConfigs, "IncrementalAlterConfigs", 0, 1, 1),
    row(ApiKey::ListPartitionReassignments, "ListPartitionReassignments", 0, 0, 0),
    row(ApiKey::OffsetDelete, "OffsetDelete", 0, 0, NEVER),
    row(ApiKey::DescribeClientQuotas, "DescribeClientQuotas", 0, 1, 1),
    row(ApiKey::DescribeUserScramCredentials, "DescribeUserScramCredentials", 0, 0, 0),
    row(ApiKey::DescribeCluster, "DescribeCluster", 0, 2, 0),
    row(ApiKey::ConsumerGroupHeartbeat, "ConsumerGroupHeartbeat", 0, 1, 0),
    row(ApiKey::ConsumerGroupDescribe, "ConsumerGroupDescribe", 0, 1, 0),
    row(ApiKey::ListConfigResources, "ListConfigResources", 0, 1, 0),
    row(ApiKey::DescribeTopicPartitions, "DescribeTopicPartitions", 0, 0, 0),
];

impl ApiKey {
    /// Its row in the table.
    pub fn api(self) -> &'static Api {
        Api::find(self.code()).expect("every key has a row")
    }

    /// The number on the wire.
    pub const fn code(self) -> i16 {
        self as i16
    }
}

impl Api {
    /// The row numbered `key`.
    pub fn find(key: i16) -> Option<&'static Api> {
        APIS.iter().find(|api| api.key.code() == key)
    }

    /// Whether `version` is served.
    pub fn serves(&self, version: i16) -> bool {
        (self.served_min..=self.max).contains(&version)
    }

    /// An error unless `version` is served.
    pub fn check_version(&self, version: i16) -> Result<(), WireError> {
        if self.serves(version) {
            Ok(())
        } else {
            Err(WireError::UnsupportedVersion { api: self.name, version })
        }
    }

    /// Whether `version` has the flexible encoding.
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }

    /// Whether the response header of `version` has tagged fields (header
    /// version 1). ApiVersions never does: a client cannot yet know which
    /// version will answer it (KIP-511).
    pub fn has_tagged_response_header(&self, version: i16) -> bool {
        self.is_flexible(version) && self.key != ApiKey::ApiVersions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_kafkas_schemas() {
        for api in APIS {
            let descriptor = kafka_wire::API_DESCRIPTORS
                .iter()
                .find(|descriptor| descriptor.api_key.value() == api.key.code())
                .expect("Kafka has this API");
            assert_eq!(descriptor.request.name, format!("{}Request", api.name));
            let range = descriptor.supported_versions;
            assert_eq!(api.served_min, range.min().value(), "{}", api.name);
            assert!(api.max <= range.max().value(), "{}", api.name);
            let flexible = descriptor.flexible_versions;
            let from = flexible.map_or(NEVER, |versions| versions.min().value());
            assert_eq!(api.flexible_from, from, "{}", api.name);
        }
        assert!(APIS.is_sorted_by_key(|api| api.key));
    }

    #[test]
    fn what_is_advertised_and_what_is_served() {
        let produce = ApiKey::Produce.api();
        assert_eq!((produce.min, produce.max), (0, 13));
        assert!(!produce.serves(2) && produce.serves(3) && !produce.serves(14));
        assert!(!ApiKey::ApiVersions.api().has_tagged_response_header(3));
        assert!(ApiKey::Metadata.api().has_tagged_response_header(9));
        assert!(Api::find(4).is_none());
    }
}
