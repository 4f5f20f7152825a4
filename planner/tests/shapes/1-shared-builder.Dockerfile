# platforms: linux/amd64,linux/arm64,linux/ppc64le,linux/s390x
FROM --platform=$BUILDPLATFORM base AS builder
WORKDIR /src
COPY . .
RUN sleep 3 && head -c 16 /dev/urandom > /slow
ARG TARGETOS TARGETARCH
RUN echo "$TARGETOS/$TARGETARCH" > /out

FROM base
RUN uname -m > /arch
COPY --from=builder /slow /out /
