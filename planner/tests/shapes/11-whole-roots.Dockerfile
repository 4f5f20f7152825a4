# platforms: linux/amd64,linux/arm64
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN make
FROM --platform=$BUILDPLATFORM busybox AS tools
RUN make tools
FROM --platform=$BUILDPLATFORM busybox AS more
RUN make more

FROM busybox
COPY --from=builder / /builder/
RUN --mount=type=bind,from=tools,target=/tools /tools/run
COPY --from=more /more /more/part /
