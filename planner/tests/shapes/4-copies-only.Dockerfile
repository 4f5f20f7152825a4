# platforms: linux/386,linux/amd64,linux/arm/v6,linux/arm/v7,linux/arm64,windows/amd64
FROM --platform=$BUILDPLATFORM base AS builder
COPY . /src
RUN make version
ARG TARGETOS TARGETARCH TARGETVARIANT
RUN make /out/$TARGETOS-$TARGETARCH$TARGETVARIANT

FROM scratch AS release-linux
COPY --from=builder /out/ /

FROM base AS release-windows
COPY --from=builder /out/ /app.exe

FROM release-$TARGETOS
