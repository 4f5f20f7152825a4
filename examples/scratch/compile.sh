# Stands for a cross compiler: makes the program of one target from what was generated.
set -eu
mkdir -p out
echo "$TARGETOS/$TARGETARCH $(cat generated)" > out/app
echo "compiled for $TARGETOS/$TARGETARCH"
