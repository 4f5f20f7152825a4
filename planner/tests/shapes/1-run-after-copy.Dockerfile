# platforms: linux/amd64,linux/arm64
# opt: no-cache=
FROM --platform=$BUILDPLATFORM base AS builder
COPY go.mod .
RUN download
ARG TARGETARCH
RUN compile $TARGETARCH > /out

FROM base
RUN apt-get install tzdata
COPY --from=builder /out /app
RUN /app --version
