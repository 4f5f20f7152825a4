# platforms: linux/amd64,linux/arm64
FROM --platform=$BUILDPLATFORM busybox AS base
ARG TARGETARCH
ENV PLACE=/src

FROM busybox AS other
ARG TARGETARCH
RUN uname -m > /machine

FROM base AS builder
WORKDIR $PLACE
RUN download
COPY conf/$TARGETARCH.conf /conf
RUN make

FROM other
COPY --from=builder /out /app
