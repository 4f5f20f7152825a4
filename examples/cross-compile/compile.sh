# Stands for a cross compiler: makes the program of one target from what was generated.
set -eu
mkdir -p out
cp generated/data out/data
cat > out/app <<END
echo "for $TARGETOS/$TARGETARCH, on \$(cat /app/machine), from run $(cat generated/run)"
END
echo "compiled for $TARGETOS/$TARGETARCH"
