# confluent-kafka-python: librdkafka.
title="confluent-kafka-python 2.16.1"
checks="none gzip snappy lz4 zstd headers idempotent large offsets topics configs partitions delete group consumer"
install() { install_python; }
check() { check_python "$1"; }
