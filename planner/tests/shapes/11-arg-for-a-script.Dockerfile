# platforms: linux/amd64,linux/arm64
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN fetch
ARG TARGETARCH
RUN sh compile.sh

FROM --platform=$BUILDPLATFORM busybox AS pages
ARG TARGETARCH
ENV GOARCH=$TARGETARCH
RUN generate
RUN ls $TARGETARCH

FROM busybox
COPY --from=builder /out /app
COPY --from=pages /pages /pages
