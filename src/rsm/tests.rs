//! A machine that counts, loaded from batches good and bad.

use bytes::Bytes;

use super::*;

/// Sums of numbers by name; a tombstone forgets a name.
#[derive(Debug, Default)]
struct Sums(BTreeMap<String, i64>);

impl StateMachine for Sums {
    type Record = (String, Option<i64>);
    type Then = &'static str;

    fn encode((name, number): &Self::Record) -> KeyValue {
        let value = number.map(|number| number.to_be_bytes().to_vec());
        KeyValue { key: name.as_bytes().to_vec(), value }
    }

    fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self::Record, String> {
        let name = String::from_utf8_lossy(key.ok_or("no key")?).into_owned();
        let number = value.map(|value| value.try_into().map(i64::from_be_bytes));
        Ok((name, number.transpose().map_err(|_| "no number")?))
    }

    fn apply(&mut self, (name, number): Self::Record, _live: bool) {
        match number {
            Some(number) => *self.0.entry(name).or_default() += number,
            None => drop(self.0.remove(&name)),
        }
    }
}

fn good(bytes: Vec<u8>, high_watermark: i64) -> ReadResult {
    let bytes = Bytes::from(bytes);
    ReadResult { error: ErrorCode::None, log_start_offset: 0, high_watermark, bytes }
}

/// Key and value of a record.
type Row<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A batch of these records from an offset on.
fn batch(offset: i64, rows: &[Row<'_>]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    for (key, value) in rows {
        builder.push(0, *key, *value, &[]);
    }
    let mut bytes = builder.finish();
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    bytes
}

#[test]
fn what_cannot_be_read_is_passed_over_and_the_rest_is_loaded() {
    let mut host = Host::new(Sums::default());
    assert_eq!(host.machine().err(), Some(ErrorCode::CoordinatorLoadInProgress));
    let one = 1_i64.to_be_bytes();
    let mut bytes = batch(0, &[(Some(b"a"), Some(&one)), (None, None), (Some(b"a"), Some(b"x"))]);
    let mut corrupt = batch(3, &[(Some(b"a"), Some(&one))]);
    *corrupt.last_mut().expect("bytes") ^= 1;
    bytes.extend(corrupt);
    bytes.extend(batch(4, &[(Some(b"b"), Some(&one)), (Some(b"a"), Some(&one))]));
    let rest = batch(6, &[(Some(b"b"), None)]);
    // The last batch comes in two reads.
    bytes.extend(&rest[..60]);
    assert_eq!(host.read(good(bytes, 7)), Progress::Slice);
    assert_eq!(host.slice(), Progress::Read(6));
    assert_eq!(host.read(good(rest, 7)), Progress::Slice);
    assert_eq!(host.slice(), Progress::Read(7));
    assert_eq!(host.read(good(vec![], 7)), Progress::Loaded);
    let sums = &host.machine().expect("loaded").0;
    assert_eq!(sums.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>(), [("a", 2)]);
}

#[test]
fn a_log_may_begin_later_and_may_be_unreadable() {
    let mut host = Host::new(Sums::default());
    let empty = good(vec![], -1);
    let late = ReadResult {
        error: ErrorCode::OffsetOutOfRange,
        log_start_offset: 40,
        high_watermark: 50,
        ..empty.clone()
    };
    assert_eq!(host.read(late), Progress::Read(40));
    let offline = ReadResult { error: ErrorCode::KafkaStorageError, ..empty };
    assert_eq!(host.read(offline), Progress::Failed);
    assert_eq!(host.machine().err(), Some(ErrorCode::NotCoordinator));
}

#[test]
fn records_count_when_they_are_committed() {
    let mut host = Host::new(Sums::default());
    assert_eq!(host.read(good(vec![], 0)), Progress::Loaded);
    let now = UnixMillis(5);
    let bytes = host.write(now, 1, vec![("a".into(), Some(1)), ("b".into(), Some(2))], "first");
    assert_eq!(decode_records(&bytes, 1 << 10).expect("a batch").len(), 2);
    host.write(now, 2, vec![("a".into(), Some(10))], "second");
    host.write(now, 3, vec![("a".into(), Some(100))], "third");
    assert!(host.machine().expect("loaded").0.is_empty());
    assert_eq!(host.written(1, true), Some("first"));
    assert_eq!(host.written(2, false), Some("second"));
    assert_eq!((host.written(3, true), host.writes_open()), (Some("third"), 0));
    assert_eq!(host.machine().expect("loaded").0["a"], 101);
}
