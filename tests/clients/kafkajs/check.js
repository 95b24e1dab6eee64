// Checks of kafkajs. As ../python/checks.py: the name of a check, and BOOTSTRAP,
// TOPIC and TIMESTAMP in the environment; the last line says why it failed.

const assert = require('node:assert/strict');
const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } =
  require('kafkajs');

const { BOOTSTRAP, TOPIC } = process.env;
const TIMESTAMP = Number(process.env.TIMESTAMP);
const COUNT = 999;
const PARTITIONS = [0, 1, 2];

// kafkajs leaves these codecs to others.
const codecs = {
  none: () => CompressionTypes.None,
  gzip: () => CompressionTypes.GZIP,
  snappy: () => {
    const snappy = require('snappyjs');
    CompressionCodecs[CompressionTypes.Snappy] = () => ({
      compress: async (encoder) => snappy.compress(encoder.buffer),
      decompress: async (buffer) => snappy.uncompress(buffer),
    });
    return CompressionTypes.Snappy;
  },
  lz4: () => {
    const lz4 = require('lz4-napi');
    CompressionCodecs[CompressionTypes.LZ4] = () => ({
      compress: (encoder) => lz4.compressFrame(encoder.buffer),
      decompress: (buffer) => lz4.decompressFrame(buffer),
    });
    return CompressionTypes.LZ4;
  },
  zstd: () => {
    const simple = new Promise((resolve) =>
      require('zstd-codec').ZstdCodec.run((zstd) => resolve(new zstd.Simple())));
    CompressionCodecs[CompressionTypes.ZSTD] = () => ({
      compress: async (encoder) => Buffer.from((await simple).compress(encoder.buffer)),
      decompress: async (buffer) => Buffer.from((await simple).decompress(buffer)),
    });
    return CompressionTypes.ZSTD;
  },
};

function plain(n) {
  return {
    partition: n % 3,
    key: `key-${n}`,
    value: `value-${n}-` + 'abc'.repeat(n % 50),
    headers: { n: `${n}` },
    timestamp: `${TIMESTAMP + n}`,
  };
}

function odd(n) {
  const headers = {};
  if (n % 2 === 0) {
    Object.assign(headers,
      { n: [`${n}`, 'again'], empty: '', '\u00fc\u00f1': Buffer.from([0xff, 0]) });
  }
  const key = n % 7 === 3 ? null : `key-${n}`;
  const value = n % 11 === 5 && key ? null : `value-${n}`;
  const timestamp = `${TIMESTAMP + ((n * 7919) % 1000)}`;
  return { partition: n % 3, key, value, headers, timestamp };
}

function records(check) {
  return Array.from({ length: COUNT }, (_, n) => (check === 'headers' ? odd : plain)(n));
}

const kafka = new Kafka({ brokers: [BOOTSTRAP], logLevel: logLevel.WARN, retry: { retries: 3 } });

async function produce(check) {
  const idempotent = check === 'idempotent';
  const producer = kafka.producer({ idempotent, allowAutoTopicCreation: true });
  await producer.connect();
  const compression = (codecs[check] ?? codecs.none)();
  const messages = records(check);
  // In several batches.
  for (let from = 0; from < COUNT; from += 333) {
    const sent = await producer.send({
      topic: TOPIC, acks: -1, compression, messages: messages.slice(from, from + 333),
    });
    const offsets = sent.map((at) => [at.partition, at.baseOffset]).sort();
    assert.deepEqual(offsets, PARTITIONS.map((p) => [p, `${from / 3}`]), 'offsets');
  }
  await producer.disconnect();
}

async function withAdmin(body) {
  const admin = kafka.admin();
  await admin.connect();
  await body(admin);
  await admin.disconnect();
}

async function create(admin, numPartitions, configEntries = []) {
  return admin.createTopics({ topics: [{ topic: TOPIC, numPartitions, configEntries }] });
}

const limit = (value) => [{ name: 'max.message.bytes', value }];

async function topics() {
  await withAdmin(async (admin) => {
    assert.equal(await create(admin, 2, limit('100000')), true, 'created');
    assert.equal(await create(admin, 2), false, 'created twice');
    assert.ok((await admin.listTopics()).includes(TOPIC), 'the topic is not listed');
    const described = (await admin.fetchTopicMetadata({ topics: [TOPIC] })).topics[0];
    const partitions = described.partitions.map((p) => [p.partitionId, p.leader, p.isr]).sort();
    assert.deepEqual(partitions, [[0, 1, [1]], [1, 1, [1]]], 'described partitions');
    assert.equal((await admin.describeCluster()).controller, 1, 'controller');
    await admin.deleteTopics({ topics: [TOPIC] });
    assert.ok(!(await admin.listTopics()).includes(TOPIC), 'the deleted topic is listed');
  });
}

async function setting(admin, type, name, key) {
  const described = await admin.describeConfigs({ resources: [{ type, name }] });
  return described.resources[0].configEntries.find((entry) => entry.configName === key)?.configValue;
}

async function configs() {
  const { TOPIC: topic, BROKER: broker } = ConfigResourceTypes;
  await withAdmin(async (admin) => {
    await create(admin, 1, limit('100000'));
    assert.equal(await setting(admin, topic, TOPIC, 'max.message.bytes'), '100000', 'as created');
    const change = { type: topic, name: TOPIC, configEntries: limit('200000') };
    await admin.alterConfigs({ resources: [change] });
    assert.equal(await setting(admin, topic, TOPIC, 'max.message.bytes'), '200000', 'as altered');
    assert.equal(await setting(admin, broker, '1', 'num.partitions'), '3', 'num.partitions');
  });
}

async function partitions() {
  await withAdmin(async (admin) => {
    await create(admin, 1);
    await admin.createPartitions({ topicPartitions: [{ topic: TOPIC, count: 3 }] });
    const described = await admin.fetchTopicMetadata({ topics: [TOPIC] });
    assert.equal(described.topics[0].partitions.length, 3, 'partitions');
  });
}

async function offsets(check) {
  await produce(check);
  await withAdmin(async (admin) => {
    const byPartition = (found) => found.sort((a, b) => a.partition - b.partition);
    const ends = byPartition(await admin.fetchTopicOffsets(TOPIC));
    assert.deepEqual(ends.map((at) => [at.low, at.high]), PARTITIONS.map(() => ['0', '333']));
    const timed = byPartition(await admin.fetchTopicOffsetsByTimestamp(TOPIC, TIMESTAMP + 299));
    assert.deepEqual(timed.map((at) => at.offset), ['100', '100', '99'], 'by time');
  });
}

async function deleteRecords(check) {
  await produce(check);
  await withAdmin(async (admin) => {
    // deleteTopicRecords needs to know the topic already.
    await admin.fetchTopicOffsets(TOPIC);
    await admin.deleteTopicRecords({ topic: TOPIC, partitions: [{ partition: 0, offset: '10' }] });
    const found = (await admin.fetchTopicOffsets(TOPIC)).find((at) => at.partition === 0);
    assert.deepEqual([found.low, found.high], ['10', '333'], 'offsets');
  });
}

// A member of the group, that commits each record as it gets it. `until` waits
// until it has had so many, or there are so many in all.
async function join(got) {
  const consumer = kafka.consumer({ groupId: TOPIC, heartbeatInterval: 500 });
  let count = 0;
  const waiting = [];
  const crashed = new Promise((_, reject) =>
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error)));
  await consumer.connect();
  await consumer.subscribe({ topic: TOPIC, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message, heartbeat }) => {
      const offset = `${Number(message.offset) + 1}`;
      await consumer.commitOffsets([{ topic: TOPIC, partition, offset }]);
      got.push({ partition, ...message });
      count += 1;
      waiting.forEach((each) => each());
      await heartbeat();
    },
  });
  const until = (mine, all) => Promise.race([crashed, new Promise((resolve) => {
    const look = () => { if (count >= mine && got.length >= all) resolve(); };
    waiting.push(look);
    look();
  })]);
  return { until, leave: () => consumer.disconnect() };
}

async function group(check) {
  await produce(check);
  const got = [];
  // One leaves with some of it read, two go on, one of them leaves the rest to the other.
  const first = await join(got);
  await first.until(100, 0);
  await first.leave();
  const [second, third] = await Promise.all([join(got), join(got)]);
  await Promise.all([second.until(100, 0), third.until(100, 0)]);
  await second.leave();
  await third.until(0, COUNT);
  assert.equal(got.length, COUNT, 'records');
  got.sort((a, b) => a.offset - b.offset || a.partition - b.partition);
  records(check).forEach((wanted, n) => {
    const { partition, offset, key, value, headers, timestamp } = got[n];
    assert.deepEqual(
      [partition, offset, `${key}`, `${value}`, `${headers.n}`, timestamp],
      [wanted.partition, `${Math.floor(n / 3)}`, wanted.key, wanted.value, wanted.headers.n,
        wanted.timestamp]);
  });
  await third.leave();
  await withAdmin(async (admin) => {
    const committed = (await admin.fetchOffsets({ groupId: TOPIC, topics: [TOPIC] }))[0];
    assert.deepEqual(committed.partitions.map((at) => at.offset), ['333', '333', '333'], 'committed');
    const listed = (await admin.listGroups()).groups.map((each) => each.groupId);
    assert.ok(listed.includes(TOPIC), 'the group is not listed');
    await admin.deleteGroups([TOPIC]);
  });
}

const checks = { offsets, topics, configs, partitions, delete: deleteRecords, group };
const check = process.argv[2];
(checks[check] ?? produce)(check).then(
  () => process.exit(0),
  (error) => {
    console.log(error.stack);
    console.log(`${error.name}: ${error.message}`.replaceAll('\n', ' '));
    process.exit(1);
  });
