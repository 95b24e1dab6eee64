# franz-go.
title="franz-go 1.22.2"
checks="none gzip snappy lz4 zstd headers idempotent large offsets topics configs partitions delete group consumer"
install() { install_go; }
check() { "$cache/check" "$1"; }
