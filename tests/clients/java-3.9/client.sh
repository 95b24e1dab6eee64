# The Java client of Kafka 3.9.
title="Java client 3.9.2"
checks="none gzip snappy lz4 zstd headers idempotent large offsets topics configs partitions delete group"
install() { install_jars && install_java; }
check() { check_java "$1"; }
