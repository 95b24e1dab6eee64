# aiokafka: Python's asyncio.
title="aiokafka 0.14.0"
checks="none gzip snappy lz4 zstd headers idempotent large offsets topics configs partitions delete group"
install() { install_python; }
check() { check_python "$1"; }
