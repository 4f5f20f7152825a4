# platforms: linux/amd64,linux/arm64
FROM --platform=$BUILDPLATFORM base AS builder
COPY . .
RUN make

FROM base
COPY . /src
RUN test -d /src
COPY --from=builder /out /out
