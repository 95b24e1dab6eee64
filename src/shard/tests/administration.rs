//! DeleteRecords and DescribeLogDirs at every version that is served.

use kafka_wire::list_offsets_request;
use kafka_wire::{DeleteRecordsRequest, ListOffsetsRequest, delete_records_request};

use super::broker::{Broker, ClientId};
use super::every_version::{Named, batch, fetch, produce, versions};
use crate::model::error_code::ErrorCode as E;
use crate::wire::apis::ApiKey;
use crate::wire::small::StrBytes;

fn deletion(rows: &[(&str, i32, i64)]) -> DeleteRecordsRequest {
    let mut request = DeleteRecordsRequest::default();
    request.timeout_ms = 1_000;
    for (name, index, offset) in rows {
        let mut partition = delete_records_request::DeleteRecordsPartition::default();
        partition.partition_index = *index;
        partition.offset = *offset;
        let mut topic = delete_records_request::DeleteRecordsTopic::default();
        topic.name = StrBytes::from(*name);
        topic.partitions.push(partition);
        request.topics.push(topic);
    }
    request
}

fn earliest(broker: &mut Broker, client: ClientId, partition: i32) -> i64 {
    let mut row = list_offsets_request::ListOffsetsPartition::default();
    row.partition_index = partition;
    row.timestamp = -2;
    let mut topic = list_offsets_request::ListOffsetsTopic::default();
    topic.name = StrBytes::from("t");
    topic.partitions.push(row);
    let mut request = ListOffsetsRequest::default();
    request.replica_id = -1;
    request.topics.push(topic);
    broker.call(client, &request, 7).topics[0].partitions[0].offset
}

#[test]
fn delete_records() {
    let mut broker = Broker::new(2, &[]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let t = Named("t", id);
    let mut end = 0;
    for version in versions(ApiKey::DeleteRecords) {
        for partition in [0, 1] {
            broker.call(client, &produce(11, -1, &[(t, partition, batch(&["a", "b", "c"]))]), 11);
        }
        end += 3;
        let rows = [
            ("t", 1, end - 1),
            ("nowhere", 0, 0),
            ("t", 0, end + 1),
            ("t", 7, 0),
            ("t", 0, -1),
            ("__consumer_offsets", 0, 0),
        ];
        // A partition that is named twice counts once.
        let response = broker.call(client, &deletion(&rows), version);
        let seen: Vec<_> = response
            .topics
            .iter()
            .map(|topic| &topic.partitions[0])
            .map(|row| (row.partition_index, row.error_code, row.low_watermark))
            .collect();
        let unknown = E::UnknownTopicOrPartition.code();
        let expected = [
            (1, 0, end - 1),
            (0, unknown, -1),
            (0, E::OffsetOutOfRange.code(), -1),
            (7, unknown, -1),
            (0, E::InvalidRequest.code(), -1),
            (0, unknown, -1),
        ];
        assert_eq!(seen, expected, "version {version}");
        assert_eq!((earliest(&mut broker, client, 1), end - 1), (end - 1, end - 1));
        let response = broker.call(client, &fetch(11, &[(t, 1, end - 2)]), 11);
        let row = &response.responses[0].partitions[0];
        assert_eq!((row.error_code, row.log_start_offset), (E::OffsetOutOfRange.code(), end - 1));

        // -1 is the high watermark; what is negative otherwise is no offset.
        let response = broker.call(client, &deletion(&[("t", 0, -1), ("t", 1, -2)]), version);
        let row = |at: usize| &response.topics[at].partitions[0];
        assert_eq!((row(0).error_code, row(0).low_watermark), (0, end), "version {version}");
        assert_eq!(row(1).error_code, E::OffsetOutOfRange.code(), "version {version}");
        assert_eq!(earliest(&mut broker, client, 0), end);
    }
}
