# Makes a database cluster, unless it is there already, and serves it: postgres.sh BIN HOME USER HOST PORT [OPTION…]
set -eu
bin=$1 home=$2 user=$3 host=$4 port=$5
shift 5
if [ -e "$home/password" ]; then
    "$bin/initdb" --no-sync --no-instructions --auth=scram-sha-256 --encoding=UTF8 --locale=C \
        --username="$user" --pwfile="$home/password" --pgdata="$home/data"
    rm "$home/password"
fi
exec "$bin/postgres" -D "$home/data" -k "$home" -h "$host" -p "$port" -c max_connections=300 -c logging_collector=off "$@"
