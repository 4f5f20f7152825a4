# Stands for the slow part of a build that is the same for every target. The result is random, so that images tell whether
# they come from the same run.
set -eu
dd if=/dev/urandom bs=1M count="$MEGABYTES" 2>/dev/null | sha256sum | cut -c 1-64 > generated
echo "generated in run $(cat generated)"
