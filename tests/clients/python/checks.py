"""What the Python clients share: the records of a check, their comparison, and
the way a check ends. Every other client's program has the same records.

A program gets the name of one check, and BOOTSTRAP, TOPIC and TIMESTAMP from the
environment. It ends with status 0, or prints why not as its last line."""

import os
import sys
import traceback
from collections import namedtuple

BOOTSTRAP = os.environ["BOOTSTRAP"]
TOPIC = os.environ["TOPIC"]
# Milliseconds since 1970 of the first record.
TIMESTAMP = int(os.environ["TIMESTAMP"])
# Whether the client can send a header without a value.
NULL_HEADERS = os.environ.get("NULL_HEADERS") != "no"

COUNT = 999
PARTITIONS = 3
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")

Record = namedtuple("Record", "partition offset key value headers timestamp")


def plain(n):
    """A record as most are."""
    value = b"value-%d-" % n + b"abc" * (n % 50)
    return Record(n % 3, n // 3, b"key-%d" % n, value, [("n", b"%d" % n)], TIMESTAMP + n)


def odd(n):
    """A record with no key, no value, no headers, or unusual ones; time goes
    back and forth."""
    headers = []
    if n % 2 == 0:
        headers = [("n", b"%d" % n), ("n", b"again"), ("empty", b""), ("\u00fc\u00f1", b"\xff\x00")]
    if n % 6 == 0 and NULL_HEADERS:
        headers.append(("null", None))
    key = None if n % 7 == 3 else b"key-%d" % n
    value = None if n % 11 == 5 and key else b"value-%d" % n
    return Record(n % 3, n // 3, key, value, headers, TIMESTAMP + n * 7919 % 1000)


def records(check):
    """The records of a check, in the order in which they are sent."""
    return [(odd if check == "headers" else plain)(n) for n in range(COUNT)]


# How many records of LARGE_BYTES the check `large` sends; one of TOO_LARGE_BYTES
# has to be refused.
LARGE_COUNT = 12
LARGE_BYTES = 700_000
TOO_LARGE_BYTES = 1_200_000


def large(n):
    """A record that is a batch of its own and larger than what is fetched at once."""
    return Record(n % 3, n // 3, None, bytes([n]) * LARGE_BYTES, [], TIMESTAMP + n)


# How many records a member of a group has had when the check goes on. Members
# take them few at a time: the other one is there before all are read.
PART = 100


def compare_large(got):
    """Fails unless `got`, in any order of the partitions, are the large records."""
    got = sorted(got, key=lambda record: (record.offset, record.partition))
    equal(len(got), LARGE_COUNT, "records")
    for n, record in enumerate(got):
        equal(record == large(n), True, f"same large record {n}")


def compare(check, got):
    """Fails unless `got`, in any order of the partitions, is what was sent."""
    equal(len(got), COUNT, "records")
    got = sorted(got, key=lambda record: (record.offset, record.partition))
    for wanted, record in zip(records(check), got):
        for field in Record._fields:
            where = f"{field} of {wanted.partition}:{wanted.offset}"
            equal(getattr(record, field), getattr(wanted, field), where)


def equal(got, wanted, what):
    """Fails unless both are equal."""
    if got != wanted:
        raise AssertionError(f"{what}: {got!r} instead of {wanted!r}")


def main(checks):
    """Runs the check that is asked for; `checks` are functions by name."""
    name = sys.argv[1]
    try:
        checks["produce" if name in CODECS + ("headers", "idempotent") else name](name)
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        # Threads of a client that failed must not hold the process.
        os._exit(1)
