// Checks of franz-go.
package main

import (
	"context"
	"errors"
	"os"
	"time"

	"corelane/checks"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var codecs = map[string]kgo.CompressionCodec{
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func client(options ...kgo.Opt) *kgo.Client {
	c, err := kgo.NewClient(append(options, kgo.SeedBrokers(checks.Bootstrap))...)
	checks.OK(err, "client")
	return c
}

func send(ctx context.Context, check string) {
	codec, ok := codecs[check]
	if !ok {
		codec = kgo.NoCompression()
	}
	options := []kgo.Opt{
		kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(50 * time.Millisecond),
	}
	if check != "idempotent" {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	c := client(options...)
	defer c.Close()
	records := checks.Records(check)
	var sent []*kgo.Record
	for _, r := range records {
		record := &kgo.Record{Topic: checks.Topic, Partition: r.Partition, Key: r.Key,
			Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp)}
		for _, h := range r.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		sent = append(sent, record)
	}
	checks.OK(c.ProduceSync(ctx, sent...).FirstErr(), "produce")
	for n, r := range records {
		checks.Equal(sent[n].Offset, r.Offset, "offset")
	}
}

func poll(ctx context.Context, c *kgo.Client, count int) (got []checks.Record) {
	for len(got) < count {
		fetches := c.PollRecords(ctx, 50)
		for _, err := range fetches.Errors() {
			checks.OK(err.Err, "fetch")
		}
		fetches.EachRecord(func(r *kgo.Record) {
			record := checks.Record{Partition: r.Partition, Offset: r.Offset, Key: r.Key,
				Value: r.Value, Timestamp: r.Timestamp.UnixMilli()}
			for _, h := range r.Headers {
				record.Headers = append(record.Headers, checks.Header{Key: h.Key, Value: h.Value})
			}
			got = append(got, record)
		})
		c.AllowRebalance()
	}
	return got
}

func from(offsets map[int32]int64) kgo.Opt {
	places := map[int32]kgo.Offset{}
	for partition, offset := range offsets {
		places[partition] = kgo.NewOffset().At(offset)
	}
	return kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{checks.Topic: places})
}

func produce(ctx context.Context, check string) {
	send(ctx, check)
	c := client(from(map[int32]int64{0: 0, 1: 0, 2: 0}))
	checks.Compare(check, poll(ctx, c, checks.Count))
	c.Close()
	c = client(from(map[int32]int64{1: 100}))
	checks.EqualRecords(poll(ctx, c, 1)[0], checks.Records(check)[301])
	c.Close()
}

func large(ctx context.Context, _ string) {
	c := client(kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(2_000_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for n := 0; n < checks.LargeCount; n++ {
		r := checks.Large(n)
		checks.OK(c.ProduceSync(ctx, &kgo.Record{Topic: checks.Topic, Partition: r.Partition,
			Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp)}).FirstErr(), "produce")
	}
	err := c.ProduceSync(ctx, &kgo.Record{Topic: checks.Topic, Value: checks.TooLarge}).FirstErr()
	if !errors.Is(err, kerr.MessageTooLarge) {
		checks.Fail("the record that is too large: %v", err)
	}
	c.Close()
	c = client(from(map[int32]int64{0: 0, 1: 0, 2: 0}), kgo.FetchMaxBytes(1000),
		kgo.FetchMaxPartitionBytes(1000))
	checks.CompareLarge(poll(ctx, c, checks.LargeCount))
	c.Close()
}

func offsets(ctx context.Context, check string) {
	send(ctx, check)
	admin := fresh()
	defer admin.Close()
	at := func(listed kadm.ListedOffsets, err error) int64 {
		checks.OK(err, "list offsets")
		found, _ := listed.Lookup(checks.Topic, 1)
		checks.OK(found.Err, "list offsets")
		return found.Offset
	}
	checks.Equal(at(admin.ListStartOffsets(ctx, checks.Topic)), 0, "earliest")
	checks.Equal(at(admin.ListEndOffsets(ctx, checks.Topic)), 333, "latest")
	checks.Equal(at(admin.ListOffsetsAfterMilli(ctx, checks.Timestamp+299, checks.Topic)), 100, "by time")
	checks.Equal(at(admin.ListMaxTimestampOffsets(ctx, checks.Topic)), 332, "of the latest time")
}

// fresh is a client that knows nothing yet: metadata are remembered for seconds.
func fresh() *kadm.Client {
	return kadm.NewClient(client())
}

func create(ctx context.Context, admin *kadm.Client, partitions int32, limit string) error {
	configs := map[string]*string{"max.message.bytes": &limit}
	_, err := admin.CreateTopic(ctx, partitions, 1, configs, checks.Topic)
	return err
}

func topics(ctx context.Context, _ string) {
	admin := fresh()
	defer admin.Close()
	checks.OK(create(ctx, admin, 2, "100000"), "create")
	if err := create(ctx, admin, 2, "100000"); !errors.Is(err, kerr.TopicAlreadyExists) {
		checks.Fail("the second creation: %v", err)
	}
	listed, err := admin.ListTopics(ctx)
	checks.OK(err, "list")
	partitions := listed[checks.Topic].Partitions
	checks.Equal(len(partitions), 2, "partitions")
	checks.Equal(partitions[1].Leader, 1, "leader")
	checks.Equal(len(partitions[1].ISR), 1, "in sync")
	metadata, err := admin.BrokerMetadata(ctx)
	checks.OK(err, "brokers")
	checks.Equal(len(metadata.Brokers), 1, "brokers")
	_, err = admin.DeleteTopic(ctx, checks.Topic)
	checks.OK(err, "delete")
	listed, err = fresh().ListTopics(ctx)
	checks.OK(err, "list")
	checks.Equal(listed.Has(checks.Topic), false, "the deleted topic is listed")
}

func setting(configs kadm.ResourceConfigs, err error, name, key string) string {
	checks.OK(err, "describe")
	resource, err := configs.On(name, nil)
	checks.OK(err, "describe")
	checks.OK(resource.Err, "describe")
	for _, config := range resource.Configs {
		if config.Key == key {
			return config.MaybeValue()
		}
	}
	return "nothing"
}

func configs(ctx context.Context, _ string) {
	admin := fresh()
	defer admin.Close()
	checks.OK(create(ctx, admin, 1, "100000"), "create")
	limit := func() string {
		described, err := admin.DescribeTopicConfigs(ctx, checks.Topic)
		return setting(described, err, checks.Topic, "max.message.bytes")
	}
	checks.Equal(limit(), "100000", "as created")
	value := "200000"
	change := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &value}}
	altered, err := admin.AlterTopicConfigs(ctx, change, checks.Topic)
	checks.OK(err, "alter")
	checks.OK(altered[0].Err, "alter")
	checks.Equal(limit(), "200000", "as altered")
	value = "300000"
	altered, err = admin.AlterTopicConfigsState(ctx, change, checks.Topic)
	checks.OK(err, "replace")
	checks.OK(altered[0].Err, "replace")
	checks.Equal(limit(), "300000", "as replaced")
	described, err := admin.DescribeBrokerConfigs(ctx, 1)
	checks.Equal(setting(described, err, "1", "num.partitions"), "3", "num.partitions")
}

func partitions(ctx context.Context, _ string) {
	admin := fresh()
	defer admin.Close()
	checks.OK(create(ctx, admin, 1, "100000"), "create")
	updated, err := admin.UpdatePartitions(ctx, 3, checks.Topic)
	checks.OK(err, "update")
	checks.OK(updated.Error(), "update")
	listed, err := fresh().ListTopics(ctx, checks.Topic)
	checks.OK(err, "list")
	checks.Equal(len(listed[checks.Topic].Partitions), 3, "partitions")
}

func deleteRecords(ctx context.Context, check string) {
	send(ctx, check)
	admin := fresh()
	defer admin.Close()
	before := kadm.Offsets{}
	before.Add(kadm.Offset{Topic: checks.Topic, Partition: 0, At: 10})
	deleted, err := admin.DeleteRecords(ctx, before)
	checks.OK(err, "delete")
	checks.OK(deleted.Error(), "delete")
	starts, err := admin.ListStartOffsets(ctx, checks.Topic)
	checks.OK(err, "list offsets")
	found, _ := starts.Lookup(checks.Topic, 0)
	checks.Equal(found.Offset, 10, "earliest")
}

// member is one of the group that commits what it has read whenever it loses it.
func member(check string) *kgo.Client {
	how := kgo.HeartbeatInterval(500 * time.Millisecond)
	if check == "consumer" {
		how = kgo.ServerSideBalancer()
	}
	return client(how, kgo.ConsumerGroup(checks.Topic), kgo.ConsumeTopics(checks.Topic),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsRevoked(func(ctx context.Context, c *kgo.Client, _ map[string][]int32) {
			checks.OK(c.CommitUncommittedOffsets(ctx), "commit")
		}))
}

func group(ctx context.Context, check string) {
	send(ctx, check)
	// One leaves with some of it read, two go on, one of them leaves the rest to the other.
	first := member(check)
	got := poll(ctx, first, checks.Part)
	first.CloseAllowingRebalance()
	second, third := member(check), member(check)
	others := make(chan []checks.Record)
	go func() { others <- poll(ctx, second, checks.Part) }()
	got = append(got, poll(ctx, third, checks.Part)...)
	got = append(got, <-others...)
	second.CloseAllowingRebalance()
	got = append(got, poll(ctx, third, checks.Count-len(got))...)
	checks.Compare(check, got)
	third.CloseAllowingRebalance()
	admin := fresh()
	defer admin.Close()
	committed, err := admin.FetchOffsets(ctx, checks.Topic)
	checks.OK(err, "committed")
	for partition := int32(0); partition < checks.Partitions; partition++ {
		at, _ := committed.Lookup(checks.Topic, partition)
		checks.Equal(at.At, 333, "committed")
	}
	listed, err := admin.ListGroups(ctx)
	checks.OK(err, "list groups")
	_, ok := listed[checks.Topic]
	checks.Equal(ok, true, "the group is listed")
	_, err = admin.DeleteGroup(ctx, checks.Topic)
	checks.OK(err, "delete group")
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	all := map[string]func(context.Context, string){
		"large": large, "offsets": offsets, "topics": topics, "configs": configs, "partitions": partitions,
		"delete": deleteRecords, "group": group, "consumer": group,
	}
	check, ok := all[os.Args[1]]
	if !ok {
		check = produce
	}
	check(ctx, os.Args[1])
}
