# kcat of Debian, on an old librdkafka. It sets no timestamps and no headers of
# one record, so what it sends is compared in key, value, offset and order alone.
title="kcat (Debian's)"
checks="none gzip snappy lz4 zstd headers idempotent offsets group"

install() {
    need kcat kcat && kcat -V
}

lines() { seq 0 332 | sed 's/.*/key-& value-&-abcabcabc/'; }

# What KEY=VALUE..., arguments of kcat, send to partition 1.
send() { lines | kcat -P -b "$BOOTSTRAP" -t "$TOPIC" -p 1 -K ' ' -X linger.ms=50 "$@"; }

# Reads partition 1 from OFFSET on, COUNT records, in FORMAT.
fetch() { kcat -C -q -b "$BOOTSTRAP" -t "$TOPIC" -p 1 -o "$1" -c "$2" -f "$3"; }

# The offset of partition 1 at a time; -1 is the end, -2 the start.
query() { kcat -Q -b "$BOOTSTRAP" -t "$TOPIC:1:$1"; }

same() {
    diff <(echo "$1") <(echo "$2") && return 0
    echo "what was read is not what was sent ($3)"
    return 1
}

# What a member of the group reads, with more arguments.
member() {
    kcat -b "$BOOTSTRAP" -G "$TOPIC" -q -f '%o %k %s\n' -X auto.offset.reset=earliest "$@" "$TOPIC"
}

check() {
    case $1 in
        group)
            # One goes on where the other has left.
            send || return 1
            local first rest
            first=$(member -c 100) && rest=$(member -c 233) || return 1
            same "$first"$'\n'"$rest" "$(lines | nl -v 0 -w 1 -s ' ')" "by the group"
            return ;;
        none | gzip | snappy | lz4 | zstd) send -z "$1" ;;
        headers) send -H n=1 -H n=again -H empty= ;;
        idempotent) send -X enable.idempotence=true ;;
        offsets)
            send || return 1
            same "$(query -1)" "$TOPIC [1] offset 333" latest &&
                same "$(query -2)" "$TOPIC [1] offset 0" earliest &&
                same "$(query "$TIMESTAMP")" "$TOPIC [1] offset 0" "by time"
            return ;;
    esac || return 1
    same "$(fetch beginning 333 '%o %k %s\n')" "$(lines | nl -v 0 -w 1 -s ' ')" all &&
        same "$(fetch 100 1 '%o %k\n')" "100 key-100" "from the middle" || return 1
    if [[ $1 == headers ]]; then same "$(fetch 7 1 '%h\n')" "n=1,n=again,empty=" headers; fi
}
