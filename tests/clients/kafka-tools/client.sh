# Kafka's own command line tools, run by their classes as bin/*.sh do. Its checks
# are columns of their own.
title="Kafka's tools 4.3.1"
checks="topics console perf offsets configs partitions delete group consumer log-dirs dump-log"
install() { install_jars; }

# The tool CLASS with its arguments.
tool() {
    local class=$1
    shift
    run_java -classpath "$cache/jars/*" "$class" "$@"
}

tools=org.apache.kafka.tools
topic() { tool $tools.TopicCommand --bootstrap-server "$BOOTSTRAP" "$@"; }
create() {
    topic --create --topic "$TOPIC" --partitions "$1" --replication-factor 1 \
        --config max.message.bytes=100000
}
config() { tool kafka.admin.ConfigCommand --bootstrap-server "$BOOTSTRAP" "$@"; }

records() { seq 0 332 | sed 's/.*/key-&,value &/'; }
send() {
    create 1 && records | tool $tools.ConsoleProducer --bootstrap-server "$BOOTSTRAP" \
        --topic "$TOPIC" --reader-property parse.key=true --reader-property key.separator=, "$@"
}
receive() {
    tool $tools.consumer.ConsoleConsumer --bootstrap-server "$BOOTSTRAP" --topic "$TOPIC" \
        --max-messages 333 --timeout-ms 20000 \
        --formatter-property print.key=true --formatter-property key.separator=, "$@"
}
offset() {
    tool $tools.GetOffsetShell --bootstrap-server "$BOOTSTRAP" --topic-partitions "$TOPIC:0" --time "$1"
}

# Runs a command; its output is `text`, and printed if it fails.
says() { text=$("$@") || { echo "$text"; return 1; }; }

# Fails unless TEXT has a line like PATTERN; prints it.
has() {
    grep -E -- "$2" <<<"$1" && return 0
    echo "nothing like '$2' in: $(tail -1 <<<"$1")"
    return 1
}

same() {
    diff <(echo "$1") <(echo "$2") && return 0
    echo "'${1:0:60}' instead of '${2:0:60}'"
    return 1
}

check() {
    local text
    case $1 in
        topics)
            create 2 || return 1
            says topic --list && has "$text" "^$TOPIC$" || return 1
            says topic --describe --topic "$TOPIC" &&
                has "$text" "PartitionCount: 2.*max.message.bytes=100000" &&
                has "$text" "Partition: 1.Leader: 1.Replicas: 1.Isr: 1" || return 1
            topic --delete --topic "$TOPIC" || return 1
            says topic --list || return 1
            if grep -x "$TOPIC" <<<"$text"; then echo "the deleted topic is listed"; return 1; fi
            ;;
        console)
            send --compression-codec zstd || return 1
            says receive --partition 0 --offset earliest && same "$text" "$(records)"
            ;;
        perf)
            says tool $tools.ProducerPerformance --bootstrap-server "$BOOTSTRAP" --topic "$TOPIC" \
                --num-records 20000 --record-size 200 --throughput -1 --command-property acks=all &&
                has "$text" "^20000 records sent"
            ;;
        offsets)
            send || return 1
            says offset earliest && same "$text" "$TOPIC:0:0" && says offset latest && same "$text" "$TOPIC:0:333" &&
                says offset "$TIMESTAMP" && same "$text" "$TOPIC:0:0" &&
                says offset max-timestamp && has "$text" "^$TOPIC:0:[0-9]+$"
            ;;
        configs)
            create 1 || return 1
            local of=(--entity-type topics --entity-name "$TOPIC")
            config "${of[@]}" --alter --add-config retention.ms=3600000,max.message.bytes=200000 &&
                says config "${of[@]}" --describe && has "$text" "max.message.bytes=200000" &&
                config "${of[@]}" --alter --delete-config max.message.bytes &&
                says config "${of[@]}" --describe --all && has "$text" "max.message.bytes=1048588" &&
                says config --entity-type brokers --entity-name 1 --describe --all &&
                has "$text" "num.partitions=3"
            ;;
        partitions)
            create 1 && topic --alter --topic "$TOPIC" --partitions 3 &&
                says topic --describe --topic "$TOPIC" && has "$text" "PartitionCount: 3"
            ;;
        delete)
            send || return 1
            echo "{\"partitions\":[{\"topic\":\"$TOPIC\",\"partition\":0,\"offset\":10}],\"version\":1}" \
                >"$cache/delete.json"
            says tool $tools.DeleteRecordsCommand --bootstrap-server "$BOOTSTRAP" \
                --offset-json-file "$cache/delete.json" && has "$text" "low_watermark: 10" &&
                says offset earliest && same "$text" "$TOPIC:0:10"
            ;;
        group)
            send || return 1
            local groups=(tool $tools.consumer.group.ConsumerGroupCommand
                --bootstrap-server "$BOOTSTRAP")
            says receive --group "$TOPIC" --from-beginning && same "$text" "$(records)" || return 1
            says "${groups[@]}" --list && has "$text" "^$TOPIC$" &&
                says "${groups[@]}" --describe --group "$TOPIC" &&
                has "$text" "$TOPIC +$TOPIC +0 +333 +333 +0" &&
                says "${groups[@]}" --describe --group "$TOPIC" --state &&
                has "$text" "$TOPIC .*Empty +0" || return 1
            # Back to the middle, by a plan first; then what is left is read.
            local reset=("${groups[@]}" --reset-offsets --group "$TOPIC" --topic "$TOPIC")
            says "${reset[@]}" --to-offset 300 --dry-run && has "$text" "$TOPIC +$TOPIC +0 +300" &&
                says "${reset[@]}" --shift-by -33 --execute && has "$text" "$TOPIC +$TOPIC +0 +300" &&
                says tool $tools.consumer.ConsoleConsumer --bootstrap-server "$BOOTSTRAP" \
                    --topic "$TOPIC" --group "$TOPIC" --max-messages 33 --timeout-ms 20000 &&
                same "$text" "$(records | tail -33 | cut -d, -f2)" &&
                "${groups[@]}" --delete-offsets --group "$TOPIC" --topic "$TOPIC" &&
                says receive --group "$TOPIC" --from-beginning && same "$text" "$(records)" &&
                "${groups[@]}" --delete --group "$TOPIC" && says "${groups[@]}" --list || return 1
            if grep -x "$TOPIC" <<<"$text"; then echo "the deleted group is listed"; return 1; fi
            ;;
        consumer)
            send || return 1
            local groups=(tool $tools.consumer.group.ConsumerGroupCommand
                --bootstrap-server "$BOOTSTRAP" --describe --group "$TOPIC")
            tool $tools.consumer.ConsoleConsumer --bootstrap-server "$BOOTSTRAP" \
                --topic "$TOPIC" --group "$TOPIC" --from-beginning --timeout-ms 12000 \
                --command-property group.protocol=consumer >"$cache/consumed" &
            until "${groups[@]}" --state | grep -E "$TOPIC .*uniform +Stable +1"; do :; done
            says "${groups[@]}" --members --verbose && has "$text" "$TOPIC .*$TOPIC:0" || return 1
            wait
            says cat "$cache/consumed" && same "$text" "$(records | cut -d, -f2)" &&
                says "${groups[@]}" && has "$text" "$TOPIC +$TOPIC +0 +333 +333 +0" &&
                says "${groups[@]}" --state && has "$text" "$TOPIC .*Empty +0"
            ;;
        log-dirs)
            send || return 1
            says tool $tools.LogDirsCommand --bootstrap-server "$BOOTSTRAP" --describe \
                --topic-list "$TOPIC" && has "$text" "\"logDir\":\"$DATA\"" &&
                has "$text" "\"partition\":\"$TOPIC-0\",\"size\":[1-9]"
            ;;
        dump-log)
            # The broker has been stopped: every file of every partition.
            local files
            files=$(find "$DATA" -path '*-*/*' \( -name '*.log' -o -name '*.index' -o -name '*.timeindex' \) |
                sort | paste -sd,)
            says tool $tools.DumpLogSegments --deep-iteration --print-data-log --files "$files" || return 1
            has "$text" "^baseOffset: .*isvalid: true" >/dev/null && has "$text" "payload: value" >/dev/null ||
                return 1
            if grep -E 'isvalid: false|[Mm]ismatch|Found |[Ee]xception|not valid' <<<"$text" >"$cache/complaints"; then
                tail -n 1 "$cache/complaints"
                return 1
            fi
            ;;
    esac
}
