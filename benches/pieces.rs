//! The pieces of the way of a record, each by itself: what they cost without a
//! kernel, a disk or a client.
//!
//! `cargo bench --bench pieces [-- FILTER]`. Criterion keeps the last run and says
//! what has changed since. On a machine that others use, counts of instructions say
//! more than times: `valgrind --tool=callgrind` on the bench's binary with
//! `--bench --test FILTER` runs a piece once.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

mod requests;

use std::hint::black_box;

use corelane::base::pages::PagePool;
use corelane::base::rope::Rope;
use corelane::log::index::OffsetIndex;
use corelane::log::tail::Tail;
use corelane::log::time_index::TimeIndex;
use corelane::model::batch::{BatchHeader, HEADER_LEN, validate};
use corelane::model::error_code::ErrorCode;
use corelane::model::ids::{CoreId, PartitionIndex};
use corelane::runtime::Mailboxes;
use corelane::wire::TopicKey;
use corelane::wire::produce::{PartitionOutcome, ProduceRequest, ProduceResponseEncoder};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Where the body of a frame that `requests` makes begins.
const BODY: usize = 15;
const PRODUCE: i16 = 9;
const BATCHES: [(&str, usize); 2] = [("1 KiB", 1 << 10), ("64 KiB", 64 << 10)];
/// A segment of 1 GiB with an entry for each 32 KiB.
const INDEX_ENTRIES: u32 = 32 << 10;

fn request(criterion: &mut Criterion) {
    let batch = requests::batch(100, 64 << 10);
    let frame = requests::produce("topic", 0, &batch.bytes);
    criterion.bench_function("request walk", |bench| {
        bench.iter(|| {
            let request = ProduceRequest::decode(black_box(&frame[BODY..]), PRODUCE);
            let request = request.expect("a sound request");
            request
                .partitions()
                .map(|row| row.records.map_or(0, |records| records.len()))
                .sum::<usize>()
        });
    });
    let outcome = PartitionOutcome {
        error: ErrorCode::None,
        base_offset: 7,
        log_start_offset: 0,
        ..PartitionOutcome::refused(PartitionIndex(0), ErrorCode::None, None)
    };
    let mut out = Vec::new();
    criterion.bench_function("answer", |bench| {
        bench.iter(|| {
            out.clear();
            let mut encoder = ProduceResponseEncoder::begin(&mut out, PRODUCE, 1, 1);
            encoder.topic(TopicKey::Name("topic"), 1);
            encoder.partition(black_box(&outcome));
            encoder.end(0, &[]);
            black_box(&out);
        });
    });
}

fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch check");
    for (name, len) in BATCHES {
        let batch = requests::batch(100, len);
        group.throughput(Throughput::Bytes(batch.bytes.len() as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| validate(black_box(&batch.bytes), 1 << 20).expect("a sound batch"));
        });
    }
    group.finish();
    let batch = requests::batch(100, 1 << 10);
    criterion.bench_function("batch header", |bench| {
        bench.iter(|| BatchHeader::decode(black_box(&batch.bytes)));
    });
}

/// The one copy of a batch, into the log's tail, and the rope that is to be written.
fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append and plan the write");
    for (name, len) in BATCHES {
        let batch = requests::batch(100, len).bytes;
        let (header, records) = batch.split_at(HEADER_LEN);
        let (mut pool, mut tail) = (PagePool::new(64 << 20), Tail::default());
        let (mut at, mut rope) = (0_u64, Rope::default());
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| {
                tail.append(0, at, [header, records], &mut pool).expect("there are pages");
                let end = at + batch.len() as u64;
                tail.submit(0, at..end, &mut rope);
                black_box(&rope);
                rope.clear();
                at = end;
                if tail.resident() > 32 << 20 {
                    tail.evict(0, at, 16 << 20);
                }
            });
        });
    }
    group.finish();
}

/// A fetch's rope: 1 MiB from the tail.
fn rope(criterion: &mut Criterion) {
    const LEN: u64 = 1 << 20;
    let batch = requests::batch(100, 64 << 10).bytes;
    let (mut pool, mut tail) = (PagePool::new(64 << 20), Tail::default());
    let (mut at, mut rope) = (0_u64, Rope::default());
    while at < 2 * LEN {
        tail.append(0, at, [&batch, &[]], &mut pool).expect("there are pages");
        at += batch.len() as u64;
    }
    criterion.bench_function("rope of 1 MiB", |bench| {
        bench.iter(|| {
            assert!(tail.read(0, 1_000..1_000 + LEN, &mut rope));
            black_box(&rope);
            rope.clear();
        });
    });
}

fn index(criterion: &mut Criterion) {
    let (mut offsets, mut times) = (OffsetIndex::default(), TimeIndex::default());
    for entry in 1..=INDEX_ENTRIES {
        offsets.note(entry * 300, u64::from(entry) * (32 << 10), 0);
        times.note(i64::from(entry) * 10, entry * 300);
        times.mark();
    }
    let mut state = 1_u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state % (INDEX_ENTRIES * 300)
    };
    criterion.bench_function("index lookup by offset", |bench| {
        bench.iter(|| offsets.lookup(black_box(next())));
    });
    criterion.bench_function("index lookup by time", |bench| {
        bench.iter(|| times.first_from(black_box(i64::from(next() / 30))));
    });
}

/// One message through the queue between two cores that are both awake.
fn mailbox(criterion: &mut Criterion) {
    let mut mesh = Mailboxes::<u64>::mesh(2);
    let (mut to, mut from) = (mesh.remove(1), mesh.remove(0));
    criterion.bench_function("mailbox hop", |bench| {
        bench.iter(|| {
            from.send(CoreId(1), black_box(7));
            let mut sum = 0;
            to.receive(|_, mail| sum += mail);
            sum
        });
    });
}

criterion_group!(pieces, request, batch, append, rope, index, mailbox);
criterion_main!(pieces);
