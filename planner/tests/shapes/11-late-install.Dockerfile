# platforms: linux/amd64,linux/arm64
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN make

FROM busybox
COPY --from=builder /app /app
COPY --link --from=builder /more /more
COPY start.sh /
RUN apk add --no-cache ca-certificates tzdata
RUN /app --version
RUN apk add curl
