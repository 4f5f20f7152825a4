# The guard's functions for an engine. It finds these set: bridge, address, cgroup.

before() {
    ip link add "$bridge" type bridge && ip address add "$address/26" dev "$bridge" && ip link set "$bridge" up
}

# Namespaces end with their first process; `unshare`, which is the part, waits until they have. It may not have come that far yet.
stop() {
    first=$(cat "/proc/$part/task/$part/children")
    kill -s "$1" "${first:-$part}"
}

after() {
    ip link delete "$bridge"
    for group in "/sys/fs/cgroup/$cgroup" /sys/fs/cgroup/*/"$cgroup"; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} \;
    done
}
