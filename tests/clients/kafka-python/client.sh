# kafka-python: Python alone.
title="kafka-python 3.0.12"
checks="none gzip snappy lz4 zstd headers idempotent large offsets topics configs partitions delete group"
install() { install_python; }
check() { NULL_HEADERS=no check_python "$1"; }
