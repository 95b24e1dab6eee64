// Checks of the Java clients. As ../python/checks.py: the name of a check, and
// BOOTSTRAP, TOPIC and TIMESTAMP in the environment; the last line says why it
// failed.

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Check {
    static final String TOPIC = System.getenv("TOPIC");
    static final long TIMESTAMP = Long.parseLong(System.getenv("TIMESTAMP"));
    static final int COUNT = 999;
    static final List<TopicPartition> PLACES =
        IntStream.range(0, 3).mapToObj(n -> new TopicPartition(TOPIC, n)).toList();
    static final Duration PATIENCE = Duration.ofSeconds(20);

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static ProducerRecord<byte[], byte[]> plain(int n) {
        var headers = new RecordHeaders(List.of(new RecordHeader("n", bytes("" + n))));
        return new ProducerRecord<>(TOPIC, n % 3, TIMESTAMP + n, bytes("key-" + n),
            bytes("value-" + n + "-" + "abc".repeat(n % 50)), headers);
    }

    static ProducerRecord<byte[], byte[]> odd(int n) {
        var headers = new RecordHeaders();
        if (n % 2 == 0) {
            headers.add("n", bytes("" + n)).add("n", bytes("again")).add("empty", new byte[0])
                .add("\u00fc\u00f1", new byte[] {(byte) 0xff, 0});
        }
        if (n % 6 == 0) headers.add("null", null);
        byte[] key = n % 7 == 3 ? null : bytes("key-" + n);
        byte[] value = n % 11 == 5 && key != null ? null : bytes("value-" + n);
        return new ProducerRecord<>(TOPIC, n % 3, TIMESTAMP + n * 7919 % 1000, key, value, headers);
    }

    static List<ProducerRecord<byte[], byte[]>> records(String check) {
        return IntStream.range(0, COUNT)
            .mapToObj(n -> check.equals("headers") ? odd(n) : plain(n)).toList();
    }

    static void equal(Object got, Object wanted, String what) {
        if (!Objects.equals(got, wanted)) {
            throw new AssertionError(what + ": " + got + " instead of " + wanted);
        }
    }

    static void send(String check) throws Exception {
        var settings = settings();
        settings.put("acks", "all");
        settings.put("linger.ms", "50");
        settings.put("enable.idempotence", "" + check.equals("idempotent"));
        if (Set.of("gzip", "snappy", "lz4", "zstd").contains(check)) {
            settings.put("compression.type", check);
        }
        try (var producer = new KafkaProducer<>(
                settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            var sent = new ArrayList<Future<RecordMetadata>>();
            for (var record : records(check)) sent.add(producer.send(record));
            for (int n = 0; n < COUNT; n++) {
                equal(sent.get(n).get().partition(), n % 3, "partition");
                equal(sent.get(n).get().offset(), (long) (n / 3), "offset");
            }
        }
    }

    static Map<String, Object> settings() {
        return new HashMap<>(Map.of("bootstrap.servers", System.getenv("BOOTSTRAP")));
    }

    static KafkaConsumer<byte[], byte[]> consumer(String... more) {
        var settings = settings();
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        for (int n = 0; n < more.length; n += 2) settings.put(more[n], more[n + 1]);
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static List<ConsumerRecord<byte[], byte[]>> poll(KafkaConsumer<byte[], byte[]> consumer, int count) {
        var got = new ArrayList<ConsumerRecord<byte[], byte[]>>();
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (got.size() < count) {
            consumer.poll(Duration.ofSeconds(1)).forEach(got::add);
            if (System.nanoTime() > end) throw new AssertionError("only " + got.size() + " records came");
        }
        return got;
    }

    static void compare(ConsumerRecord<byte[], byte[]> got, ProducerRecord<byte[], byte[]> wanted) {
        String where = " of " + got.partition() + ":" + got.offset();
        equal(got.partition(), wanted.partition(), "partition" + where);
        equal(got.timestamp(), wanted.timestamp(), "timestamp" + where);
        equal(Arrays.equals(got.key(), wanted.key()), true, "same key" + where);
        equal(Arrays.equals(got.value(), wanted.value()), true, "same value" + where);
        equal(got.headers(), wanted.headers(), "headers" + where);
    }

    static void compareAll(String check, List<ConsumerRecord<byte[], byte[]>> got) {
        equal(got.size(), COUNT, "records");
        got.sort(Comparator.<ConsumerRecord<byte[], byte[]>>comparingLong(ConsumerRecord::offset)
            .thenComparing(ConsumerRecord::partition));
        var wanted = records(check);
        for (int n = 0; n < COUNT; n++) {
            equal(got.get(n).offset(), (long) (n / 3), "offset");
            compare(got.get(n), wanted.get(n));
        }
    }

    static void produce(String check) throws Exception {
        send(check);
        try (var consumer = consumer()) {
            consumer.assign(PLACES);
            consumer.seekToBeginning(PLACES);
            compareAll(check, poll(consumer, COUNT));
            consumer.assign(PLACES.subList(1, 2));
            consumer.seek(PLACES.get(1), 100);
            var first = poll(consumer, 1).get(0);
            equal(first.offset(), 100L, "from the middle");
            compare(first, records(check).get(301));
        }
    }

    static void large(String check) throws Exception {
        int count = 12;
        var settings = settings();
        settings.put("max.request.size", "2000000");
        try (var producer = new KafkaProducer<>(
                settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int n = 0; n < count; n++) {
                var value = new byte[700_000];
                Arrays.fill(value, (byte) n);
                var sent = producer.send(new ProducerRecord<>(TOPIC, n % 3, TIMESTAMP + n, null, value));
                equal(sent.get().offset(), (long) (n / 3), "offset");
            }
            var tooLarge = new ProducerRecord<byte[], byte[]>(TOPIC, 0, null, new byte[1_200_000]);
            try {
                producer.send(tooLarge).get();
                throw new AssertionError("a record that is too large was taken");
            } catch (ExecutionException error) {
                equal(error.getCause().getClass(), RecordTooLargeException.class, "error");
            }
        }
        try (var consumer = consumer("max.partition.fetch.bytes", "1000", "fetch.max.bytes", "1000")) {
            consumer.assign(PLACES);
            for (var got : poll(consumer, count)) {
                int n = (int) got.offset() * 3 + got.partition();
                equal(got.timestamp(), TIMESTAMP + n, "timestamp");
                equal(got.value().length, 700_000, "length");
                for (byte each : got.value()) equal(each, (byte) n, "byte");
            }
        }
    }

    static long listed(Admin admin, int partition, OffsetSpec spec) throws Exception {
        var at = PLACES.get(partition);
        return admin.listOffsets(Map.of(at, spec)).partitionResult(at).get().offset();
    }

    static void offsets(String check) throws Exception {
        send(check);
        try (var admin = Admin.create(settings()); var consumer = consumer()) {
            equal(listed(admin, 1, OffsetSpec.earliest()), 0L, "earliest");
            equal(listed(admin, 1, OffsetSpec.latest()), 333L, "latest");
            equal(listed(admin, 1, OffsetSpec.forTimestamp(TIMESTAMP + 299)), 100L, "by time");
            equal(listed(admin, 1, OffsetSpec.maxTimestamp()), 332L, "of the latest time");
            equal(consumer.endOffsets(PLACES).get(PLACES.get(2)), 333L, "end");
            var late = PLACES.get(2);
            var found = consumer.offsetsForTimes(Map.of(late, TIMESTAMP + 5000));
            equal(found.get(late), null, "by a time that is too late");
        }
    }

    static void create(Admin admin, int partitions) throws Exception {
        var topic = new NewTopic(TOPIC, Optional.of(partitions), Optional.empty());
        admin.createTopics(List.of(topic.configs(Map.of("max.message.bytes", "100000")))).all().get();
    }

    static TopicDescription described(Admin admin) throws Exception {
        return admin.describeTopics(List.of(TOPIC)).allTopicNames().get().get(TOPIC);
    }

    static void topics(String check) throws Exception {
        try (var admin = Admin.create(settings())) {
            create(admin, 2);
            try {
                create(admin, 2);
                throw new AssertionError("the topic was created twice");
            } catch (ExecutionException error) {
                equal(error.getCause().getClass(), TopicExistsException.class, "error");
            }
            equal(admin.listTopics().names().get().contains(TOPIC), true, "topic is listed");
            var partitions = described(admin).partitions();
            equal(partitions.size(), 2, "partitions");
            equal(partitions.get(1).leader().id(), 1, "leader");
            equal(partitions.get(1).isr().size(), 1, "in sync");
            equal(admin.describeCluster().nodes().get().size(), 1, "brokers");
            equal(admin.describeCluster().controller().get().id(), 1, "controller");
            admin.deleteTopics(List.of(TOPIC)).all().get();
            equal(admin.listTopics().names().get().contains(TOPIC), false, "deleted topic is listed");
        }
    }

    static String setting(Admin admin, ConfigResource resource, String name) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource).get(name).value();
    }

    static void configs(String check) throws Exception {
        var topic = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        var broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
        try (var admin = Admin.create(settings())) {
            create(admin, 1);
            equal(setting(admin, topic, "max.message.bytes"), "100000", "as created");
            var entry = new ConfigEntry("max.message.bytes", "200000");
            Collection<AlterConfigOp> change = List.of(new AlterConfigOp(entry, AlterConfigOp.OpType.SET));
            admin.incrementalAlterConfigs(Map.of(topic, change)).all().get();
            equal(setting(admin, topic, "max.message.bytes"), "200000", "as altered");
            change = List.of(new AlterConfigOp(entry, AlterConfigOp.OpType.DELETE));
            admin.incrementalAlterConfigs(Map.of(topic, change)).all().get();
            equal(setting(admin, topic, "max.message.bytes"), "1048588", "as reset");
            equal(setting(admin, broker, "num.partitions"), "3", "num.partitions");
        }
    }

    static void partitions(String check) throws Exception {
        try (var admin = Admin.create(settings())) {
            create(admin, 1);
            admin.createPartitions(Map.of(TOPIC, NewPartitions.increaseTo(3))).all().get();
            equal(described(admin).partitions().size(), 3, "partitions");
        }
    }

    static void delete(String check) throws Exception {
        send(check);
        var at = PLACES.get(0);
        try (var admin = Admin.create(settings()); var consumer = consumer()) {
            var deleted = admin.deleteRecords(Map.of(at, RecordsToDelete.beforeOffset(10)));
            equal(deleted.lowWatermarks().get(at).get().lowWatermark(), 10L, "low watermark");
            consumer.assign(List.of(at));
            consumer.seek(at, 0);
            // Out of range, so from the earliest.
            equal(poll(consumer, 1).get(0).offset(), 10L, "first offset");
        }
    }

    /** A member of the group that commits what it has read whenever it loses it. */
    static KafkaConsumer<byte[], byte[]> member(String check) {
        var member = check.equals("consumer")
            ? consumer("group.id", TOPIC, "max.poll.records", "10", "group.protocol", "consumer")
            : consumer("group.id", TOPIC, "max.poll.records", "10", "heartbeat.interval.ms", "500");
        member.subscribe(List.of(TOPIC), new ConsumerRebalanceListener() {
            public void onPartitionsRevoked(Collection<TopicPartition> revoked) {
                member.commitSync();
            }

            public void onPartitionsAssigned(Collection<TopicPartition> assigned) {
            }
        });
        return member;
    }

    /** Polls members until each has had so many records, and all together so many. */
    static void pollUntil(int each, int all, List<ConsumerRecord<byte[], byte[]>> got,
            List<KafkaConsumer<byte[], byte[]>> members) {
        var counts = new int[members.size()];
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (got.size() < all || Arrays.stream(counts).anyMatch(count -> count < each)) {
            for (int n = 0; n < counts.length; n++) {
                var polled = members.get(n).poll(Duration.ofMillis(200));
                counts[n] += polled.count();
                polled.forEach(got::add);
            }
            if (System.nanoTime() > end) throw new AssertionError("only " + got.size() + " records came");
        }
    }

    /** Two members of the consumer protocol, as an administrator sees them. */
    static void describe() throws Exception {
        try (var admin = Admin.create(settings())) {
            var group = admin.describeConsumerGroups(List.of(TOPIC)).all().get().get(TOPIC);
            equal(group.type(), GroupType.CONSUMER, "type");
            equal(group.members().size(), 2, "members");
            equal(group.members().stream().mapToInt(m -> m.assignment().topicPartitions().size()).sum(),
                PLACES.size(), "partitions of the members");
        }
    }

    static void group(String check) throws Exception {
        send(check);
        var got = new ArrayList<ConsumerRecord<byte[], byte[]>>();
        // One leaves with some of it read, two go on, one of them leaves the rest to the other.
        try (var first = member(check)) {
            pollUntil(100, 0, got, List.of(first));
        }
        try (var third = member(check)) {
            try (var second = member(check)) {
                pollUntil(100, 0, got, List.of(second, third));
                if (check.equals("consumer")) describe();
            }
            pollUntil(0, COUNT, got, List.of(third));
            compareAll(check, got);
        }
        try (var admin = Admin.create(settings())) {
            var committed = admin.listConsumerGroupOffsets(TOPIC).partitionsToOffsetAndMetadata().get();
            for (var at : PLACES) equal(committed.get(at).offset(), 333L, "committed");
            var listed = admin.listConsumerGroups().all().get().stream()
                .map(group -> group.groupId()).collect(Collectors.toSet());
            equal(listed.contains(TOPIC), true, "group is listed");
            admin.deleteConsumerGroups(List.of(TOPIC)).all().get();
        }
    }

    public static void main(String[] arguments) {
        String check = arguments[0];
        try {
            switch (check) {
                case "large" -> large(check);
                case "offsets" -> offsets(check);
                case "topics" -> topics(check);
                case "configs" -> configs(check);
                case "partitions" -> partitions(check);
                case "delete" -> delete(check);
                case "group", "consumer" -> group(check);
                default -> produce(check);
            }
            System.exit(0);
        } catch (Throwable error) {
            error.printStackTrace();
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            System.out.println(cause.toString().replace('\n', ' '));
            System.exit(1);
        }
    }
}
