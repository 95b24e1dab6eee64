//! Whose clock timestamps are of, and which ones are taken
//! (`message.timestamp.type`, `message.timestamp.before.max.ms` and `.after.max.ms`).

use super::broker::Broker;
use super::every_version::{Named, fetch, produce, versions};
use crate::model::batch::BatchHeader;
use crate::model::error_code::ErrorCode as E;
use crate::model::record::{BatchBuilder, Codec, decode_records};
use crate::wire::apis::ApiKey;
use crate::wire::small::Bytes;

/// The broker's clock at the start.
const NOW: i64 = 1_700_000_000_000;

fn timed(codec: Codec, times: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for time in times {
        builder.push(*time, None, Some(b"value"), &[]);
    }
    Bytes::from(builder.finish())
}

#[test]
fn the_broker_stamps_what_it_appends() {
    let mut broker = Broker::new(1, &[]);
    let id = broker.create_topic("t", &[("message.timestamp.type", "LogAppendTime")]);
    let client = broker.connect(0);
    let name = Named("t", id);
    let mut offset = 0;
    for version in versions(ApiKey::Produce) {
        let codec = if version % 2 == 0 { Codec::Zstd } else { Codec::None };
        let records = timed(codec, &[5, 7]);
        let response = broker.call(client, &produce(version, -1, &[(name, 0, records)]), version);
        let row = &response.responses[0].partition_responses[0];
        let stamped = row.log_append_time_ms;
        assert!(row.error_code == 0 && (NOW..NOW + 60_000).contains(&stamped), "{version}");
        let read = broker.call(client, &fetch(12, &[(name, 0, offset)]), 12);
        let records = read.responses[0].partitions[0].records.clone().expect("records");
        let header = BatchHeader::decode(&records).expect("a whole header");
        assert!(header.is_log_append_time());
        let records = decode_records(&records, 1 << 20).expect("its checksum is right");
        assert!(records.iter().all(|record| record.timestamp_ms == stamped));
        offset += 2;
        broker.wait(10);
    }
}

#[test]
fn timestamps_out_of_bounds_are_refused_and_named() {
    let mut broker = Broker::new(1, &[]);
    let bounds =
        [("message.timestamp.before.max.ms", "60000"), ("message.timestamp.after.max.ms", "1000")];
    let id = broker.create_topic("t", &bounds);
    let plain = broker.create_topic("plain", &[]);
    let client = broker.connect(0);
    for version in versions(ApiKey::Produce) {
        let bad = timed(Codec::Gzip, &[NOW, NOW - 70_000, NOW, NOW + 100_000]);
        let early = timed(Codec::None, &[5]);
        let far = timed(Codec::None, &[NOW + 7_200_000]);
        let rows = [
            (Named("t", id), 0, bad),
            (Named("plain", plain), 0, early),
            (Named("plain", plain), 0, far),
        ];
        let response = broker.call(client, &produce(version, -1, &rows), version);
        let rows = response.responses.iter().map(|topic| &topic.partition_responses[0]);
        let codes: Vec<i16> = rows.map(|row| row.error_code).collect();
        let refused = E::InvalidTimestamp.code();
        // By default a timestamp may lie an hour ahead.
        assert_eq!(codes, [refused, 0, refused], "version {version}");
        let row = &response.responses[0].partition_responses[0];
        assert_eq!((row.base_offset, row.log_append_time_ms), (-1, -1));
        if version >= 8 {
            let named: Vec<i32> = row.record_errors.iter().map(|error| error.batch_index).collect();
            assert_eq!(named, [1, 3]);
            let message = row.record_errors[0].batch_index_error_message.as_ref();
            assert!(message.expect("a reason").as_str().contains("out of range"));
            assert!(row.error_message.as_ref().expect("a reason").as_str().contains("timestamp"));
        }
    }
}
