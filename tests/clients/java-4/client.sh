# The Java client of Kafka 4.
title="Java client 4.4.0"
checks="none gzip snappy lz4 zstd headers idempotent large offsets topics configs partitions delete group consumer"
install() { install_jars && install_java; }
check() { check_java "$1"; }
