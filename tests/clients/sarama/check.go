// Checks of sarama.
package main

import (
	"context"
	"errors"
	"os"
	"time"

	"corelane/checks"

	"github.com/IBM/sarama"
)

var codecs = map[string]sarama.CompressionCodec{
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

// patience bounds every wait for records.
const patience = 30 * time.Second

var brokers = []string{checks.Bootstrap}

func config(check string) *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V3_6_0_0
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Return.Successes = true
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.Producer.Compression = codecs[check]
	c.Producer.Flush.Frequency = 50 * time.Millisecond
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Return.Errors = true
	if check == "idempotent" {
		c.Producer.Idempotent = true
		c.Net.MaxOpenRequests = 1
	}
	return c
}

func send(check string) {
	producer, err := sarama.NewSyncProducer(brokers, config(check))
	checks.OK(err, "producer")
	records := checks.Records(check)
	var sent []*sarama.ProducerMessage
	for _, r := range records {
		message := &sarama.ProducerMessage{Topic: checks.Topic, Partition: r.Partition,
			Timestamp: time.UnixMilli(r.Timestamp)}
		if r.Key != nil {
			message.Key = sarama.ByteEncoder(r.Key)
		}
		if r.Value != nil {
			message.Value = sarama.ByteEncoder(r.Value)
		}
		for _, h := range r.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
		}
		sent = append(sent, message)
	}
	checks.OK(producer.SendMessages(sent), "produce")
	for n, r := range records {
		checks.Equal(sent[n].Offset, r.Offset, "offset")
	}
	checks.OK(producer.Close(), "close")
}

func record(m *sarama.ConsumerMessage) checks.Record {
	r := checks.Record{Partition: m.Partition, Offset: m.Offset, Key: m.Key, Value: m.Value,
		Timestamp: m.Timestamp.UnixMilli()}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, checks.Header{Key: string(h.Key), Value: h.Value})
	}
	return r
}

func read(consumer sarama.Consumer, partition int32, offset int64, count int) (got []checks.Record) {
	reader, err := consumer.ConsumePartition(checks.Topic, partition, offset)
	checks.OK(err, "consume")
	late := time.After(patience)
	for len(got) < count {
		select {
		case message := <-reader.Messages():
			got = append(got, record(message))
		case err := <-reader.Errors():
			checks.OK(err, "consume")
		case <-late:
			checks.Fail("%d records of partition %d came in time", len(got), partition)
		}
	}
	checks.OK(reader.Close(), "close")
	return got
}

func produce(check string) {
	send(check)
	consumer, err := sarama.NewConsumer(brokers, config(check))
	checks.OK(err, "consumer")
	var got []checks.Record
	for partition := int32(0); partition < checks.Partitions; partition++ {
		got = append(got, read(consumer, partition, sarama.OffsetOldest, checks.Count/3)...)
	}
	checks.Compare(check, got)
	checks.EqualRecords(read(consumer, 1, 100, 1)[0], checks.Records(check)[301])
	checks.OK(consumer.Close(), "close")
}

func large(string) {
	settings := config("")
	settings.Producer.MaxMessageBytes = 2_000_000
	producer, err := sarama.NewSyncProducer(brokers, settings)
	checks.OK(err, "producer")
	for n := 0; n < checks.LargeCount; n++ {
		r := checks.Large(n)
		_, offset, err := producer.SendMessage(&sarama.ProducerMessage{Topic: checks.Topic,
			Partition: r.Partition, Value: sarama.ByteEncoder(r.Value),
			Timestamp: time.UnixMilli(r.Timestamp)})
		checks.OK(err, "produce")
		checks.Equal(offset, r.Offset, "offset")
	}
	_, _, err = producer.SendMessage(&sarama.ProducerMessage{Topic: checks.Topic,
		Value: sarama.ByteEncoder(checks.TooLarge)})
	if !errors.Is(err, sarama.ErrMessageSizeTooLarge) {
		checks.Fail("the record that is too large: %v", err)
	}
	checks.OK(producer.Close(), "close")
	settings.Consumer.Fetch.Default = 1000
	settings.Consumer.Fetch.Max = 0
	consumer, err := sarama.NewConsumer(brokers, settings)
	checks.OK(err, "consumer")
	var got []checks.Record
	for partition := int32(0); partition < checks.Partitions; partition++ {
		got = append(got, read(consumer, partition, 0, checks.LargeCount/checks.Partitions)...)
	}
	checks.CompareLarge(got)
	checks.OK(consumer.Close(), "close")
}

func offsets(check string) {
	send(check)
	client, err := sarama.NewClient(brokers, config(check))
	checks.OK(err, "client")
	wanted := map[int64]int64{sarama.OffsetOldest: 0, sarama.OffsetNewest: 333,
		checks.Timestamp + 299: 100}
	for time, offset := range wanted {
		found, err := client.GetOffset(checks.Topic, 1, time)
		checks.OK(err, "offset")
		checks.Equal(found, offset, "offset")
	}
	checks.OK(client.Close(), "close")
}

func clusterAdmin() sarama.ClusterAdmin {
	admin, err := sarama.NewClusterAdmin(brokers, config(""))
	checks.OK(err, "admin")
	return admin
}

func create(admin sarama.ClusterAdmin, partitions int32) error {
	limit := "100000"
	return admin.CreateTopic(checks.Topic, &sarama.TopicDetail{NumPartitions: partitions,
		ReplicationFactor: 1, ConfigEntries: map[string]*string{"max.message.bytes": &limit}}, false)
}

func described(admin sarama.ClusterAdmin) *sarama.TopicMetadata {
	topics, err := admin.DescribeTopics([]string{checks.Topic})
	checks.OK(err, "describe")
	return topics[0]
}

func topics(string) {
	admin := clusterAdmin()
	checks.OK(create(admin, 2), "create")
	if err := create(admin, 2); !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		checks.Fail("the second creation: %v", err)
	}
	partitions := described(admin).Partitions
	checks.Equal(len(partitions), 2, "partitions")
	checks.Equal(partitions[1].Leader, 1, "leader")
	checks.Equal(len(partitions[1].Isr), 1, "in sync")
	all, controller, err := admin.DescribeCluster()
	checks.OK(err, "describe cluster")
	checks.Equal(len(all), 1, "brokers")
	checks.Equal(controller, 1, "controller")
	checks.OK(admin.DeleteTopic(checks.Topic), "delete")
	checks.Equal(described(admin).Err, sarama.ErrUnknownTopicOrPartition, "of the deleted topic")
	checks.OK(admin.Close(), "close")
}

func setting(admin sarama.ClusterAdmin, kind sarama.ConfigResourceType, name, key string) string {
	entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: kind, Name: name})
	checks.OK(err, "describe")
	for _, entry := range entries {
		if entry.Name == key {
			return entry.Value
		}
	}
	return "nothing"
}

func configs(string) {
	const limit = "max.message.bytes"
	admin := clusterAdmin()
	checks.OK(create(admin, 1), "create")
	checks.Equal(setting(admin, sarama.TopicResource, checks.Topic, limit), "100000", "as created")
	value := "200000"
	checks.OK(admin.IncrementalAlterConfig(sarama.TopicResource, checks.Topic,
		map[string]sarama.IncrementalAlterConfigsEntry{
			limit: {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value},
		}, false), "alter")
	checks.Equal(setting(admin, sarama.TopicResource, checks.Topic, limit), "200000", "as altered")
	value = "300000"
	checks.OK(admin.AlterConfig(sarama.TopicResource, checks.Topic,
		map[string]*string{limit: &value}, false), "replace")
	checks.Equal(setting(admin, sarama.TopicResource, checks.Topic, limit), "300000", "as replaced")
	checks.Equal(setting(admin, sarama.BrokerResource, "1", "num.partitions"), "3", "num.partitions")
	checks.OK(admin.Close(), "close")
}

func partitions(string) {
	admin := clusterAdmin()
	checks.OK(create(admin, 1), "create")
	checks.OK(admin.CreatePartitions(checks.Topic, 3, nil, false), "create partitions")
	checks.Equal(len(described(admin).Partitions), 3, "partitions")
	checks.OK(admin.Close(), "close")
}

func deleteRecords(check string) {
	send(check)
	admin := clusterAdmin()
	checks.OK(admin.DeleteRecords(checks.Topic, map[int32]int64{0: 10}), "delete")
	checks.OK(admin.Close(), "close")
	client, err := sarama.NewClient(brokers, config(check))
	checks.OK(err, "client")
	found, err := client.GetOffset(checks.Topic, 0, sarama.OffsetOldest)
	checks.OK(err, "offset")
	checks.Equal(found, 10, "earliest")
	checks.OK(client.Close(), "close")
}

// reader takes what a member of a group gets; what was taken is marked.
type reader chan checks.Record

func (reader) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (reader) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (r reader) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			select {
			case r <- record(message):
				session.MarkMessage(message, "")
			case <-session.Context().Done():
				return nil
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

// join makes a member; the function lets it leave, what was marked committed.
func join(check string) (reader, func()) {
	settings := config(check)
	settings.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	member, err := sarama.NewConsumerGroup(brokers, checks.Topic, settings)
	checks.OK(err, "group")
	ctx, cancel := context.WithCancel(context.Background())
	records, ended := make(reader), make(chan bool)
	go func() {
		for err := range member.Errors() {
			checks.OK(err, "group")
		}
	}()
	go func() {
		// A session ends with each rebalance.
		for ctx.Err() == nil {
			if err := member.Consume(ctx, []string{checks.Topic}, records); ctx.Err() == nil {
				checks.OK(err, "session")
			}
		}
		ended <- true
	}()
	return records, func() {
		cancel()
		<-ended
		checks.OK(member.Close(), "close")
	}
}

func group(check string) {
	send(check)
	var got []checks.Record
	late := time.After(patience)
	take := func(one, other reader) bool {
		select {
		case r := <-one:
			got = append(got, r)
			return true
		case r := <-other:
			got = append(got, r)
			return false
		case <-late:
			checks.Fail("%d records came in time", len(got))
			return false
		}
	}
	// One leaves with some of it read, two go on, one of them leaves the rest to the other.
	first, leave := join(check)
	for len(got) < checks.Part {
		take(first, nil)
	}
	leave()
	second, leave := join(check)
	third, leaveLast := join(check)
	for ones, others := 0, 0; ones < checks.Part || others < checks.Part; {
		one, other := second, third
		// Who has enough leaves the rest to the other.
		if ones >= checks.Part {
			one = nil
		}
		if others >= checks.Part {
			other = nil
		}
		if take(one, other) {
			ones++
		} else {
			others++
		}
	}
	leave()
	for len(got) < checks.Count {
		take(third, nil)
	}
	checks.Compare(check, got)
	leaveLast()
	admin := clusterAdmin()
	committed, err := admin.ListConsumerGroupOffsets(checks.Topic,
		map[string][]int32{checks.Topic: {0, 1, 2}})
	checks.OK(err, "committed")
	for partition := int32(0); partition < checks.Partitions; partition++ {
		checks.Equal(committed.GetBlock(checks.Topic, partition).Offset, 333, "committed")
	}
	groups, err := admin.ListConsumerGroups()
	checks.OK(err, "list groups")
	_, ok := groups[checks.Topic]
	checks.Equal(ok, true, "the group is listed")
	checks.OK(admin.DeleteConsumerGroup(checks.Topic), "delete group")
	checks.OK(admin.Close(), "close")
}

func main() {
	all := map[string]func(string){
		"large": large, "offsets": offsets, "topics": topics, "configs": configs, "partitions": partitions,
		"delete": deleteRecords, "group": group,
	}
	check, ok := all[os.Args[1]]
	if !ok {
		check = produce
	}
	check(os.Args[1])
}
