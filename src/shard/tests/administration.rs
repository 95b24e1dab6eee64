//! DeleteRecords and DescribeLogDirs at every version that is served.

use kafka_wire::{
    DeleteRecordsRequest, DescribeLogDirsRequest, ListOffsetsRequest, delete_records_request,
    describe_log_dirs_request, list_offsets_request,
};

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

#[test]
fn describe_log_dirs() {
    let mut broker = Broker::new(2, &[("log.dirs", "/data/logs")]);
    let client = broker.connect(1);
    for disk in &mut broker.disks {
        disk.space = Some((1 << 30, 1 << 29));
    }
    let empty = broker.call(client, &DescribeLogDirsRequest::default(), 1);
    assert_eq!((empty.results.len(), empty.results[0].topics.len()), (1, 0));
    let id = broker.create_topic("t", &[]);
    broker.create_topic("u", &[]);
    let rows = [(Named("t", id), 1, batch(&["some bytes"]))];
    broker.call(client, &produce(11, -1, &rows), 11);
    let size = rows[0].2.len() as i64;
    for version in versions(ApiKey::DescribeLogDirs) {
        let mut request = DescribeLogDirsRequest::default();
        request.topics = None;
        let response = broker.call(client, &request, version);
        let dir = &response.results[0];
        assert_eq!((dir.error_code, &*dir.log_dir), (0, "/data/logs"), "version {version}");
        let space = if version >= 4 { (1 << 30, 1 << 29) } else { (-1, -1) };
        assert_eq!((dir.total_bytes, dir.usable_bytes), space, "version {version}");
        let names: Vec<&str> = dir.topics.iter().map(|topic| &*topic.name).collect();
        assert_eq!(names, ["t", "u"]);
        let sizes = dir.topics[0].partitions.iter();
        let sizes: Vec<_> = sizes.map(|row| (row.partition_index, row.partition_size)).collect();
        assert_eq!(sizes, [(0, 0), (1, size)], "version {version}");

        let mut topic = describe_log_dirs_request::DescribableLogDirTopic::default();
        topic.topic = StrBytes::from("t");
        topic.partitions = vec![1, 5];
        request.topics = Some(vec![topic]);
        let response = broker.call(client, &request, version);
        let topics = &response.results[0].topics;
        assert_eq!((topics.len(), topics[0].partitions.len()), (1, 1), "version {version}");
        assert_eq!(topics[0].partitions[0].partition_index, 1);
    }
}

#[test]
fn batches_are_refused_before_the_disk_is_full() {
    let mut broker = Broker::new(1, &[]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let send = |broker: &mut Broker| {
        let rows = [(Named("t", id), 0, batch(&["x"]))];
        let response = broker.call(client, &produce(11, -1, &rows), 11);
        response.responses[0].partition_responses[0].error_code
    };
    let reserve = (100 << 20) / 20;
    let full = E::KafkaStorageError.code();
    for (usable, code) in [(reserve, 0), (reserve - 1, 0), (reserve * 2, 0)] {
        broker.disks[0].space = Some((100 << 20, usable));
        broker.wait(1_000);
        send(&mut broker);
        // What is preallocated is still to be had.
        assert_eq!(send(&mut broker), code, "{usable}");
    }
    broker.disks[0].space = Some((100 << 20, reserve - 1));
    broker.wait(1_000);
    send(&mut broker);
    let other = broker.create_topic("other", &[]);
    let rows = [(Named("other", other), 0, batch(&["x"]))];
    let response = broker.call(client, &produce(11, -1, &rows), 11);
    assert_eq!(response.responses[0].partition_responses[0].error_code, full);
    // Nothing but time passes, and others give space back.
    broker.disks[0].space = Some((100 << 20, reserve * 2));
    broker.wait(1_000);
    let response = broker.call(client, &produce(11, -1, &rows), 11);
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
}
