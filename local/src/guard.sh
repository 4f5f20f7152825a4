# Runs one part for an owner and ends it with the owner.
#
#   sh guard.sh SIGNAL GRACE HOOKS HOME COMMAND…
#
# Standard input is a pipe that only the owner holds open: its end, however the owner ended, SIGKILL included, ends
# the part with SIGNAL, and with KILL after GRACE seconds. HOOKS, if not empty, is a file that may redefine the
# three functions below. HOME is removed afterwards (its `run` link's target too), and its parent with it once that is
# empty. A part that ends early leaves its exit status in HOME/ended.
signal=$1 grace=$2 hooks=$3 home=$4
shift 4

before() { :; }
stop() { kill -s "$1" "$part"; }
after() { :; }
[ -z "$hooks" ] || . "$hooks"

# A Ctrl-C or a closed terminal must not leave the part behind: only the pipe counts.
trap : HUP INT TERM
exec 3<&0 </dev/null
if before; then
    # If this guard is killed itself, the part still goes. A session of its own, so that what it leaves behind can be told apart.
    setsid setpriv --pdeathsig KILL "$@" 3<&- &
    part=$!
    (
        while read -r _ <&3; do :; done
        stop "$signal"
        tenths=$((grace * 10))
        while [ "$tenths" -gt 0 ] && kill -0 "$part"; do
            sleep 0.1
            tenths=$((tenths - 1))
        done
        stop KILL
    ) 2>/dev/null &
    watch=$!
    wait "$part"
    status=$?
    while kill -0 "$part" 2>/dev/null; do
        wait "$part"
        status=$?
    done
    kill "$watch" 2>/dev/null
    # So that no child is left that could be taken for the part.
    wait "$watch" 2>/dev/null
    # What was killed is gone at once, but for zombies that the system is slow to bury.
    tenths=10
    while [ "$tenths" -gt 0 ] && kill -s KILL -- "-$part" 2>/dev/null; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
else
    status=1
fi
after
# The owner may want to read the log of a part that ended early, and learns of it from this file.
echo "$status" >"$home/ended"
while read -r _ <&3; do :; done
run=$(readlink "$home/run") && rm -rf "$run"
rm -rf "$home"
rmdir "$(dirname "$home")" 2>/dev/null
