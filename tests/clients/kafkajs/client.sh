# kafkajs. It consumes in groups alone, so what it sends is read back by
# confluent-kafka-python.
title="kafkajs 2.2.4"
checks="none gzip snappy lz4 zstd headers idempotent offsets topics configs partitions delete group"

install() {
    need node nodejs && need npm npm || return 1
    cp "$here/package.json" "$cache" && cd "$cache" || return 1
    npm install --no-audit --no-fund --no-package-lock --ignore-scripts
}

check() {
    export NULL_HEADERS=no # TypeError otherwise
    NODE_PATH=$cache/node_modules node "$here/check.js" "$1" || return 1
    case $1 in none | gzip | snappy | lz4 | zstd | headers | idempotent) ;; *) return 0 ;; esac
    cache=$store/confluent-kafka-python here=$clients/confluent-kafka-python
    if [[ ! -f $cache/installed ]]; then
        echo "it needs confluent-kafka-python to be read back, which is not installed"
        return 1
    fi
    check_python verify "$1"
}
