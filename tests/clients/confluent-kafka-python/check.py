"""Checks of confluent-kafka-python, which is librdkafka."""

import sys
import time

from checks import BOOTSTRAP, CODECS, COUNT, LARGE_COUNT, PART, PARTITIONS, TIMESTAMP, TOPIC
from checks import TOO_LARGE_BYTES, Record, compare, compare_large, equal, large, main, records
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin import NewPartitions, NewTopic, OffsetSpec

SERVERS = {"bootstrap.servers": BOOTSTRAP}


def send(check):
    producer = Producer(SERVERS | {
        "acks": "all",
        "compression.type": check if check in CODECS else "none",
        "enable.idempotence": check == "idempotent",
        "linger.ms": 50,
    })
    offsets = []

    def delivered(error, message):
        if error:
            raise KafkaException(error)
        offsets.append((message.partition(), message.offset()))

    for record in records(check):
        producer.produce(TOPIC, record.value, record.key, record.partition,
                         on_delivery=delivered, timestamp=record.timestamp,
                         headers=record.headers)
    equal(producer.flush(30), 0, "unsent")
    equal(sorted(offsets), sorted((r.partition, r.offset) for r in records(check)), "offsets")


def poll(consumer, count):
    messages = []
    while len(messages) < count:
        message = consumer.poll(20)
        if message is None:
            raise AssertionError(f"{len(messages)} records came, then none for 20 s")
        if message.error():
            raise KafkaException(message.error())
        messages.append(Record(message.partition(), message.offset(), message.key(),
                               message.value(), message.headers() or [], message.timestamp()[1]))
    return messages


def consumer(settings={}):
    return Consumer(SERVERS | {"group.id": TOPIC, "enable.auto.commit": False,
                               "auto.offset.reset": "earliest"} | settings)


def produce(check):
    send(check)
    reader = consumer()
    reader.assign([TopicPartition(TOPIC, n, 0) for n in range(PARTITIONS)])
    compare(check, poll(reader, COUNT))
    # From the middle of a batch.
    reader.assign([TopicPartition(TOPIC, 1, 100)])
    equal(poll(reader, 1)[0], records(check)[301], "from the middle")
    reader.close()


def verify(check):
    """Reads what another client sent as `check`, the second argument."""
    check = sys.argv[2]
    reader = consumer()
    reader.assign([TopicPartition(TOPIC, n, 0) for n in range(PARTITIONS)])
    compare(check, poll(reader, COUNT))
    reader.close()


def large_records(_):
    producer = Producer(SERVERS | {"message.max.bytes": 2_000_000, "linger.ms": 0})
    errors = []

    def delivered(error, _):
        errors.append(error and error.code())

    for n in range(LARGE_COUNT):
        r = large(n)
        producer.produce(TOPIC, r.value, r.key, r.partition, timestamp=r.timestamp,
                         on_delivery=delivered)
        # Each by itself: together they would be too large a batch.
        producer.flush(20)
    producer.produce(TOPIC, bytes(TOO_LARGE_BYTES), partition=0, on_delivery=delivered)
    producer.flush(20)
    equal(errors, [None] * LARGE_COUNT + [KafkaError.MSG_SIZE_TOO_LARGE], "errors")
    reader = consumer({"fetch.message.max.bytes": 1000, "message.max.bytes": 1000,
                       "fetch.max.bytes": 1000})
    reader.assign([TopicPartition(TOPIC, n, 0) for n in range(PARTITIONS)])
    compare_large(poll(reader, LARGE_COUNT))
    reader.close()


def offsets(check):
    send(check)
    admin = AdminClient(SERVERS)
    at = TopicPartition(TOPIC, 1)
    wanted = [(OffsetSpec.earliest(), 0), (OffsetSpec.latest(), COUNT // 3),
              (OffsetSpec.for_timestamp(TIMESTAMP + 299), 100),
              (OffsetSpec.max_timestamp(), COUNT // 3 - 1)]
    for spec, offset in wanted:
        equal(admin.list_offsets({at: spec})[at].result(20).offset, offset, repr(spec))
    reader = consumer()
    equal(reader.get_watermark_offsets(at, 20), (0, COUNT // 3), "watermarks")
    found = reader.offsets_for_times([TopicPartition(TOPIC, 2, TIMESTAMP + 500)], 20)
    equal(found[0].offset, 166, "offset for a time")
    reader.close()


def create(admin, partitions, settings={}):
    admin.create_topics([NewTopic(TOPIC, partitions, 1, config=settings)])[TOPIC].result(20)


def topics(_):
    admin = AdminClient(SERVERS)
    create(admin, 2, {"max.message.bytes": "100000"})
    try:
        create(admin, 2)
        raise AssertionError("the topic was created twice")
    except KafkaException as error:
        equal(error.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS, "error")
    listed = admin.list_topics(timeout=20)
    equal(len(listed.topics[TOPIC].partitions), 2, "listed partitions")
    equal(len(listed.brokers), 1, "brokers")
    described = admin.describe_topics(TopicCollection([TOPIC]))[TOPIC].result(20)
    equal([(p.id, p.leader.id, len(p.isr)) for p in described.partitions],
          [(0, 1, 1), (1, 1, 1)], "described partitions")
    equal(admin.describe_cluster().result(20).controller.id, 1, "controller")
    admin.delete_topics([TOPIC])[TOPIC].result(20)
    equal(TOPIC in admin.list_topics(timeout=20).topics, False, "deleted topic is listed")


def described(admin, kind, name):
    resource = ConfigResource(kind, name)
    return admin.describe_configs([resource])[resource].result(20)


def configs(_):
    admin = AdminClient(SERVERS)
    create(admin, 1, {"max.message.bytes": "100000"})
    topic = ConfigResource.Type.TOPIC
    equal(described(admin, topic, TOPIC)["max.message.bytes"].value, "100000", "as created")
    change = ConfigResource(topic, TOPIC, incremental_configs=[
        ConfigEntry("max.message.bytes", "200000", incremental_operation=AlterConfigOpType.SET)])
    admin.incremental_alter_configs([change])[change].result(20)
    equal(described(admin, topic, TOPIC)["max.message.bytes"].value, "200000", "as altered")
    change = ConfigResource(topic, TOPIC, set_config={"max.message.bytes": "300000"})
    admin.alter_configs([change])[change].result(20)
    equal(described(admin, topic, TOPIC)["max.message.bytes"].value, "300000", "as replaced")
    broker = described(admin, ConfigResource.Type.BROKER, "1")
    equal(broker["num.partitions"].value, "3", "num.partitions")


def partitions(_):
    admin = AdminClient(SERVERS)
    create(admin, 1)
    admin.create_partitions([NewPartitions(TOPIC, 3)])[TOPIC].result(20)
    equal(len(admin.list_topics(TOPIC, 20).topics[TOPIC].partitions), 3, "partitions")


def delete(check):
    send(check)
    admin = AdminClient(SERVERS)
    at = TopicPartition(TOPIC, 0, 10)
    equal(admin.delete_records([at])[at].result(20).low_watermark, 10, "low watermark")
    reader = consumer()
    equal(reader.get_watermark_offsets(at, 20), (10, COUNT // 3), "watermarks")
    reader.assign([TopicPartition(TOPIC, 0, 0)])
    equal(poll(reader, 1)[0].offset, 10, "first offset")
    reader.close()


def member(check):
    """A member of the group that commits what it has read whenever it loses it."""
    def revoked(reader, _):
        try:
            reader.commit(asynchronous=False)
        except KafkaException as error:
            # Nothing was read since the last time.
            equal(error.args[0].code(), KafkaError._NO_OFFSET, "error")

    reader = consumer({"group.protocol": "consumer"} if check == "consumer" else
                      {"heartbeat.interval.ms": 500})
    reader.subscribe([TOPIC], on_revoke=revoked)
    return reader


def take(reader, got):
    """The next few records, if there are any; returns their number."""
    # Collecting several it may give back a partition, and then hands out what it has of
    # that partition all the same if others stay with it.
    messages = reader.consume(1 if sys.argv[1] == "consumer" else 10, 0.2)
    for m in messages:
        if m.error():
            raise KafkaException(m.error())
        got.append(Record(m.partition(), m.offset(), m.key(), m.value(), m.headers() or [],
                          m.timestamp()[1]))
    return len(messages)


def group(check):
    send(check)
    got = []
    late = time.monotonic() + 40

    def until(enough, readers):
        counts = [0 for _ in readers]
        while not enough(counts):
            equal(time.monotonic() < late, True, "in time")
            counts = [count + take(reader, got) for count, reader in zip(counts, readers)]

    # Where a partition has no offset, a rebalance in the first half second has librdkafka
    # ask for its beginning once more, later, and read it twice.
    start = consumer()
    start.commit(offsets=[TopicPartition(TOPIC, n, 0) for n in range(PARTITIONS)],
                 asynchronous=False)
    start.close()
    # One leaves with some of it read, two go on, one of them leaves the rest to the other.
    first = member(check)
    until(lambda counts: counts[0] >= PART, [first])
    first.close()
    second, third = member(check), member(check)
    # Where they come to share late, one may have read everything by then.
    until(lambda counts: min(counts) >= PART or len(got) >= COUNT, [second, third])
    second.close()
    until(lambda _: len(got) >= COUNT, [third])
    compare(check, got)
    third.close()
    last = consumer()
    committed = last.committed([TopicPartition(TOPIC, n) for n in range(PARTITIONS)], 20)
    equal([at.offset for at in committed], [COUNT // 3] * 3, "committed")
    last.close()
    admin = AdminClient(SERVERS)
    listed = admin.list_consumer_groups().result(20)
    equal(TOPIC in [group.group_id for group in listed.valid], True, "group is listed")
    admin.delete_consumer_groups([TOPIC])[TOPIC].result(20)


main({"produce": produce, "verify": verify, "large": large_records, "offsets": offsets, "topics": topics,
      "configs": configs, "partitions": partitions, "delete": delete, "group": group, "consumer": group})
