# sarama.
title="sarama 1.61.1"
checks="none gzip snappy lz4 zstd headers idempotent large offsets topics configs partitions delete group"
install() { install_go; }
check() { "$cache/check" "$1"; }
