"""Checks of aiokafka."""

import asyncio
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from checks import BOOTSTRAP, CODECS, COUNT, LARGE_COUNT, PART, PARTITIONS, TIMESTAMP, TOPIC
from checks import TOO_LARGE_BYTES, Record, compare, compare_large, equal, main, records
from checks import large as large_record

PLACES = [TopicPartition(TOPIC, n) for n in range(PARTITIONS)]


async def send(check):
    async with AIOKafkaProducer(
            bootstrap_servers=BOOTSTRAP, acks="all", linger_ms=50,
            compression_type=check if check in CODECS and check != "none" else None,
            enable_idempotence=check == "idempotent") as producer:
        sent = [await producer.send(TOPIC, r.value, r.key, r.partition, r.timestamp, r.headers)
                for r in records(check)]
        offsets = [(at.partition, at.offset) for at in await asyncio.gather(*sent)]
    equal(offsets, [(r.partition, r.offset) for r in records(check)], "offsets")


def consumer(*topics, **settings):
    return AIOKafkaConsumer(*topics, bootstrap_servers=BOOTSTRAP,
                            auto_offset_reset="earliest", **settings)


async def poll(reader, count):
    got = []
    async with asyncio.timeout(20):
        async for r in reader:
            got.append(Record(r.partition, r.offset, r.key, r.value, list(r.headers), r.timestamp))
            if len(got) == count:
                return got


async def produce(check):
    await send(check)
    async with consumer() as reader:
        reader.assign(PLACES)
        await reader.seek_to_beginning()
        compare(check, await poll(reader, COUNT))
        reader.assign([PLACES[1]])
        reader.seek(PLACES[1], 100)
        equal((await poll(reader, 1))[0], records(check)[301], "from the middle")


async def large(_):
    async with AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, max_request_size=2_000_000) as producer:
        for n in range(LARGE_COUNT):
            r = large_record(n)
            at = await producer.send_and_wait(TOPIC, r.value, r.key, r.partition, r.timestamp)
            equal(at.offset, r.offset, "offset")
        try:
            await producer.send_and_wait(TOPIC, bytes(TOO_LARGE_BYTES), partition=0)
            raise AssertionError("a record that is too large was taken")
        except MessageSizeTooLargeError:
            pass
    async with consumer(max_partition_fetch_bytes=1000, fetch_max_bytes=1000) as reader:
        reader.assign(PLACES)
        compare_large(await poll(reader, LARGE_COUNT))


async def offsets(check):
    await send(check)
    async with consumer() as reader:
        equal(await reader.beginning_offsets([PLACES[1]]), {PLACES[1]: 0}, "earliest")
        equal(await reader.end_offsets([PLACES[1]]), {PLACES[1]: COUNT // 3}, "latest")
        found = await reader.offsets_for_times(
            {PLACES[1]: TIMESTAMP + 299, PLACES[2]: TIMESTAMP + 5000})
        equal((found[PLACES[1]].offset, found[PLACES[1]].timestamp), (100, TIMESTAMP + 301),
              "by time")
        equal(found[PLACES[2]], None, "by a time that is too late")


@asynccontextmanager
async def admin_client():
    admin = AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def create(admin, partitions, configs={}):
    created = await admin.create_topics([NewTopic(TOPIC, partitions, 1, topic_configs=configs)])
    return created.topic_errors[0][1]


async def topics(_):
    async with admin_client() as admin:
        equal(await create(admin, 2, {"max.message.bytes": "100000"}), 0, "error of creation")
        equal(await create(admin, 2), 36, "error of the second creation")
        equal(TOPIC in await admin.list_topics(), True, "topic is listed")
        described = (await admin.describe_topics([TOPIC]))[0]["partitions"]
        equal([(p["partition"], p["leader"], p["isr"]) for p in described],
              [(0, 1, [1]), (1, 1, [1])], "described partitions")
        equal((await admin.describe_cluster())["controller_id"], 1, "controller")
        deleted = await admin.delete_topics([TOPIC])
        equal(deleted.topic_error_codes[0][1], 0, "error of deletion")
        equal(TOPIC in await admin.list_topics(), False, "deleted topic is listed")


async def setting(admin, kind, name, key):
    answer = (await admin.describe_configs([ConfigResource(kind, name)]))[0]
    error, message, _, _, entries = answer.resources[0][:5]
    equal(error, 0, f"error of description ({message})")
    return {entry[0]: entry[1] for entry in entries}[key]


async def configs(_):
    async with admin_client() as admin:
        await create(admin, 1, {"max.message.bytes": "100000"})
        topic = ConfigResourceType.TOPIC
        equal(await setting(admin, topic, TOPIC, "max.message.bytes"), "100000", "as created")
        change = ConfigResource(topic, TOPIC, {"max.message.bytes": "200000"})
        altered = await admin.alter_configs([change])
        equal(altered[0].resources[0][0], 0, "error of alteration")
        equal(await setting(admin, topic, TOPIC, "max.message.bytes"), "200000", "as altered")
        partitions = await setting(admin, ConfigResourceType.BROKER, "1", "num.partitions")
        equal(partitions, "3", "num.partitions")


async def partitions(_):
    async with admin_client() as admin:
        await create(admin, 1)
        await admin.create_partitions({TOPIC: NewPartitions(3)})
        equal(len((await admin.describe_topics([TOPIC]))[0]["partitions"]), 3, "partitions")


async def delete(check):
    await send(check)
    async with admin_client() as admin:
        deleted = await admin.delete_records({PLACES[0]: RecordsToDelete(10)})
        equal(deleted, {PLACES[0]: 10}, "low watermark")
    async with consumer() as reader:
        equal(await reader.beginning_offsets([PLACES[0]]), {PLACES[0]: 10}, "earliest")


class Commits(ConsumerRebalanceListener):
    """Commits what a member has read whenever it loses it."""

    def __init__(self, reader):
        self.reader = reader

    async def on_partitions_revoked(self, revoked):
        if revoked:
            await self.reader.commit()

    async def on_partitions_assigned(self, assigned):
        pass


async def member():
    reader = consumer(group_id=TOPIC, enable_auto_commit=False, heartbeat_interval_ms=500)
    reader.subscribe([TOPIC], listener=Commits(reader))
    await reader.start()
    return reader


async def take(reader, got):
    """The next few records, if there are any; returns their number."""
    fetched = await reader.getmany(timeout_ms=200, max_records=10)
    rows = [r for rows in fetched.values() for r in rows]
    got.extend(Record(r.partition, r.offset, r.key, r.value, list(r.headers), r.timestamp)
               for r in rows)
    return len(rows)


async def leave(reader):
    await reader.commit()
    await reader.stop()


async def group(check):
    await send(check)
    got = []

    async def until(enough, readers):
        counts = [0 for _ in readers]
        while not enough(counts):
            more = await asyncio.gather(*(take(reader, got) for reader in readers))
            counts = [count + n for count, n in zip(counts, more)]

    # One leaves with some of it read, two go on, one of them leaves the rest to the other.
    async with asyncio.timeout(40):
        first = await member()
        await until(lambda counts: counts[0] >= PART, [first])
        await leave(first)
        second, third = await asyncio.gather(member(), member())
        # Where they come to share late, one may have read everything by then.
        await until(lambda counts: min(counts) >= PART or len(got) >= COUNT, [second, third])
        await leave(second)
        await until(lambda _: len(got) >= COUNT, [third])
        compare(check, got)
        await leave(third)
    async with consumer(group_id=TOPIC, enable_auto_commit=False) as last:
        committed = [await last.committed(at) for at in PLACES]
    equal(committed, [COUNT // 3] * 3, "committed")
    async with admin_client() as admin:
        listed = [group for group, _ in await admin.list_consumer_groups()]
        equal(TOPIC in listed, True, "group is listed")


def checked(check):
    return lambda name: asyncio.run(check(name))


main({check.__name__: checked(check) for check in
      (produce, large, offsets, topics, configs, partitions, delete, group)})
