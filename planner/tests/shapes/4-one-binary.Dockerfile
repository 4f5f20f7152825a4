# platforms: linux/amd64,linux/arm64,windows/amd64
FROM --platform=$BUILDPLATFORM base AS builder
COPY . /src
RUN make script

FROM base
COPY --from=builder /out/script /
