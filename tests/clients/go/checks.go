// Package checks is what the Go clients share: the records of a check, their
// comparison, and the way a check ends. As ../python/checks.py.
package checks

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
)

// Count is the number of records, Partitions that of partitions.
const (
	Count      = 999
	Partitions = 3
)

// The environment of a check; Timestamp is that of the first record, in ms.
var (
	Bootstrap = os.Getenv("BOOTSTRAP")
	Topic     = os.Getenv("TOPIC")
	Timestamp = must(strconv.ParseInt(os.Getenv("TIMESTAMP"), 10, 64))
)

// Header is a record's header; a nil value is null.
type Header struct {
	Key   string
	Value []byte
}

// Record is a record as sent or read; nil is null.
type Record struct {
	Partition  int32
	Offset     int64
	Key, Value []byte
	Headers    []Header
	Timestamp  int64
}

// Records are those of a check, in the order in which they are sent.
func Records(check string) []Record {
	records := make([]Record, Count)
	for n := range records {
		number := []byte(strconv.Itoa(n))
		r := Record{
			Partition: int32(n % 3),
			Offset:    int64(n / 3),
			Key:       []byte(fmt.Sprintf("key-%d", n)),
			Value:     []byte(fmt.Sprintf("value-%d-%s", n, strings.Repeat("abc", n%50))),
			Headers:   []Header{{"n", number}},
			Timestamp: Timestamp + int64(n),
		}
		if check == "headers" {
			odd(&r, n, number)
		}
		records[n] = r
	}
	return records
}

// odd makes a record with no key, no value, no headers, or unusual ones; time
// goes back and forth.
func odd(r *Record, n int, number []byte) {
	r.Headers = nil
	if n%2 == 0 {
		r.Headers = []Header{{"n", number}, {"n", []byte("again")}, {"empty", []byte{}},
			{"\u00fc\u00f1", []byte{0xff, 0}}}
	}
	if n%6 == 0 && os.Getenv("NULL_HEADERS") != "no" {
		r.Headers = append(r.Headers, Header{"null", nil})
	}
	r.Value = []byte(fmt.Sprintf("value-%d", n))
	if n%7 == 3 {
		r.Key = nil
	} else if n%11 == 5 {
		r.Value = nil
	}
	r.Timestamp = Timestamp + int64(n*7919%1000)
}

// Part is how many records a member of a group has had when the check goes on.
const Part = 100

// LargeCount is how many records the check `large` sends; TooLarge is a value
// that has to be refused.
const LargeCount = 12

var TooLarge = make([]byte, 1_200_000)

// Large is a record that is a batch of its own and larger than what is fetched
// at once.
func Large(n int) Record {
	return Record{Partition: int32(n % 3), Offset: int64(n / 3), Timestamp: Timestamp + int64(n),
		Value: bytes.Repeat([]byte{byte(n)}, 700_000)}
}

// CompareLarge fails unless got, in any order, are the large records.
func CompareLarge(got []Record) {
	Equal(len(got), LargeCount, "records")
	for _, r := range got {
		n := int(r.Offset)*3 + int(r.Partition)
		wanted := Large(n)
		if r.Timestamp != wanted.Timestamp || !sameBytes(r.Value, wanted.Value) {
			Fail("the large record %d is another one", n)
		}
	}
}

// Compare fails unless got, in any order of the partitions, is what was sent.
func Compare(check string, got []Record) {
	Equal(len(got), Count, "records")
	sort.Slice(got, func(a, b int) bool {
		if got[a].Offset != got[b].Offset {
			return got[a].Offset < got[b].Offset
		}
		return got[a].Partition < got[b].Partition
	})
	for n, wanted := range Records(check) {
		EqualRecords(got[n], wanted)
	}
}

// EqualRecords fails unless both are the same in everything.
func EqualRecords(got, wanted Record) {
	same := got.Partition == wanted.Partition && got.Offset == wanted.Offset &&
		got.Timestamp == wanted.Timestamp && sameBytes(got.Key, wanted.Key) &&
		sameBytes(got.Value, wanted.Value) && len(got.Headers) == len(wanted.Headers)
	for n := 0; same && n < len(wanted.Headers); n++ {
		same = got.Headers[n].Key == wanted.Headers[n].Key &&
			sameBytes(got.Headers[n].Value, wanted.Headers[n].Value)
	}
	if !same {
		Fail("%q instead of %q", got, wanted)
	}
}

func sameBytes(a, b []byte) bool {
	return (a == nil) == (b == nil) && bytes.Equal(a, b)
}

// Equal fails unless both are equal.
func Equal[T comparable](got, wanted T, what string) {
	if got != wanted {
		Fail("%s: %v instead of %v", what, got, wanted)
	}
}

// OK fails if there is an error.
func OK(err error, what string) {
	if err != nil {
		Fail("%s: %v", what, err)
	}
}

// Fail ends the process.
func Fail(format string, values ...any) {
	fmt.Println(strings.ReplaceAll(fmt.Sprintf(format, values...), "\n", " "))
	os.Exit(1)
}

func must[T any](value T, err error) T {
	OK(err, "environment")
	return value
}
