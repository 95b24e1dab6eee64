"""Checks of kafka-python."""

import time

from checks import BOOTSTRAP, CODECS, COUNT, LARGE_COUNT, PART, PARTITIONS, TIMESTAMP, TOPIC
from checks import TOO_LARGE_BYTES, Record, compare, compare_large, equal, large, main, records
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource
from kafka.errors import MessageSizeTooLargeError, TopicAlreadyExistsError

PLACES = [TopicPartition(TOPIC, n) for n in range(PARTITIONS)]


def send(check):
    producer = KafkaProducer(
        bootstrap_servers=BOOTSTRAP, acks="all", linger_ms=50,
        compression_type=check if check in CODECS and check != "none" else None,
        enable_idempotence=check == "idempotent")
    sent = [producer.send(TOPIC, r.value, r.key, r.headers, r.partition, r.timestamp)
            for r in records(check)]
    producer.flush(30)
    offsets = [(f.get(20).partition, f.get(20).offset) for f in sent]
    equal(offsets, [(r.partition, r.offset) for r in records(check)], "offsets")
    producer.close()


def consumer(**settings):
    return KafkaConsumer(bootstrap_servers=BOOTSTRAP, consumer_timeout_ms=20000,
                         auto_offset_reset="earliest", **settings)


def poll(reader, count):
    got = []
    for r in reader:
        got.append(Record(r.partition, r.offset, r.key, r.value, list(r.headers), r.timestamp))
        if len(got) == count:
            break
    equal(len(got), count, "records until none came for 20 s")
    return got


def produce(check):
    send(check)
    reader = consumer()
    reader.assign(PLACES)
    reader.seek_to_beginning()
    compare(check, poll(reader, COUNT))
    reader.assign([PLACES[1]])
    reader.seek(PLACES[1], 100)
    equal(poll(reader, 1)[0], records(check)[301], "from the middle")
    reader.close()


def large_records(_):
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, max_request_size=2_000_000)
    for n in range(LARGE_COUNT):
        r = large(n)
        sent = producer.send(TOPIC, r.value, r.key, [], r.partition, r.timestamp)
        equal(sent.get(20).offset, r.offset, "offset")
    try:
        producer.send(TOPIC, bytes(TOO_LARGE_BYTES), partition=0).get(20)
        raise AssertionError("a record that is too large was taken")
    except MessageSizeTooLargeError:
        pass
    producer.close()
    reader = consumer(max_partition_fetch_bytes=1000, fetch_max_bytes=1000)
    reader.assign(PLACES)
    compare_large(poll(reader, LARGE_COUNT))
    reader.close()


def offsets(check):
    send(check)
    reader = consumer()
    equal(reader.beginning_offsets([PLACES[1]]), {PLACES[1]: 0}, "earliest")
    equal(reader.end_offsets([PLACES[1]]), {PLACES[1]: COUNT // 3}, "latest")
    found = reader.offsets_for_times({PLACES[1]: TIMESTAMP + 299, PLACES[2]: TIMESTAMP + 5000})
    equal((found[PLACES[1]].offset, found[PLACES[1]].timestamp), (100, TIMESTAMP + 301), "by time")
    equal(found[PLACES[2]], None, "by a time that is too late")
    reader.close()


def create(admin, partitions, configs={}):
    admin.create_topics({TOPIC: {
        "num_partitions": partitions, "replication_factor": 1, "configs": configs}})


def topics(_):
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    create(admin, 2, {"max.message.bytes": "100000"})
    try:
        create(admin, 2)
        raise AssertionError("the topic was created twice")
    except TopicAlreadyExistsError:
        pass
    equal(TOPIC in admin.list_topics(), True, "topic is listed")
    described = admin.describe_topics([TOPIC])[0]["partitions"]
    equal([(p["partition_index"], p["leader_id"], p["isr_nodes"]) for p in described],
          [(0, 1, [1]), (1, 1, [1])], "described partitions")
    equal(len(admin.describe_cluster()["brokers"]), 1, "brokers")
    admin.delete_topics([TOPIC])
    equal(TOPIC in admin.list_topics(), False, "deleted topic is listed")
    admin.close()


def setting(admin, kind, name, key):
    described = admin.describe_configs([ConfigResource(kind, name)], config_filter="all")
    return described[kind][name][key]["value"]


def configs(_):
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    create(admin, 1, {"max.message.bytes": "100000"})
    equal(setting(admin, "topic", TOPIC, "max.message.bytes"), "100000", "as created")
    for incremental, value in ((True, "200000"), (False, "300000")):
        change = ConfigResource("topic", TOPIC, {"max.message.bytes": value})
        admin.alter_configs([change], incremental=incremental)
        equal(setting(admin, "topic", TOPIC, "max.message.bytes"), value, "as altered")
    equal(setting(admin, "broker", "1", "num.partitions"), "3", "num.partitions")
    admin.close()


def partitions(_):
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    create(admin, 1)
    admin.create_partitions({TOPIC: 3})
    equal(len(admin.describe_topics([TOPIC])[0]["partitions"]), 3, "partitions")
    admin.close()


def delete(check):
    send(check)
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    deleted = admin.delete_records({PLACES[0]: 10})
    equal(deleted[PLACES[0]]["low_watermark"], 10, "low watermark")
    reader = consumer()
    equal(reader.beginning_offsets([PLACES[0]]), {PLACES[0]: 10}, "earliest")
    admin.close()
    reader.close()


def member():
    """A member of the group; the client commits what it has read when it loses it."""
    reader = consumer(group_id=TOPIC, heartbeat_interval_ms=500)
    reader.subscribe([TOPIC])
    return reader


def take(reader, got):
    """The next few records, if there are any; returns their number."""
    rows = [r for rows in reader.poll(200, max_records=10).values() for r in rows]
    got.extend(Record(r.partition, r.offset, r.key, r.value, list(r.headers), r.timestamp)
               for r in rows)
    return len(rows)


def group(check):
    send(check)
    got = []
    late = time.monotonic() + 80

    def until(enough, readers):
        counts = [0 for _ in readers]
        while not enough(counts):
            equal(time.monotonic() < late, True, "in time")
            counts = [count + take(reader, got) for count, reader in zip(counts, readers)]

    # One leaves with some of it read, two go on, one of them leaves the rest to the other.
    first = member()
    until(lambda counts: counts[0] >= PART, [first])
    first.close()
    second, third = member(), member()
    # Where they come to share late, one may have read everything by then.
    until(lambda counts: min(counts) >= PART or len(got) >= COUNT, [second, third])
    second.close()
    until(lambda _: len(got) >= COUNT, [third])
    compare(check, got)
    third.close()
    last = consumer(group_id=TOPIC, enable_auto_commit=False)
    equal([last.committed(at) for at in PLACES], [COUNT // 3] * 3, "committed")
    last.close()
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    listed = [group["group_id"] for group in admin.list_groups()]
    equal(TOPIC in listed, True, "group is listed")
    admin.delete_groups([TOPIC])
    admin.close()


main({"produce": produce, "large": large_records, "offsets": offsets, "topics": topics,
      "configs": configs, "partitions": partitions, "delete": delete, "group": group})
