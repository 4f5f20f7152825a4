# platforms: linux/amd64,linux/arm64,linux/s390x
FROM --platform=$BUILDPLATFORM busybox AS builder
ARG TARGETOS \
    TARGETARCH
WORKDIR /src
COPY . .
RUN go mod download
RUN echo "not $TARGETARCHIVE" > /note
RUN GOOS=$TARGETOS GOARCH=${TARGETARCH} make
RUN strip /out

FROM busybox
RUN adduser app
COPY --from=builder /out /note /app/
