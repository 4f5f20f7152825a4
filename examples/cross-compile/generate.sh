# Stands for the slow part of a build that is the same for every target: fetching, generating code, bundling a web page.
# The result is random, so that images tell whether they come from the same run.
set -eu
mkdir -p generated
dd if=/dev/urandom bs=1M count="$MEGABYTES" 2>/dev/null | sha256sum | cut -c 1-64 > generated/run
dd if=/dev/urandom bs=1k count=512 of=generated/data 2>/dev/null
echo "generated in run $(cat generated/run)"
