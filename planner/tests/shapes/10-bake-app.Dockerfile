# platforms: linux/amd64,linux/arm64
# link: common=10-bake-base
FROM --platform=$BUILDPLATFORM base AS builder
RUN make app
FROM common
COPY --from=builder /app /app
RUN /app --check
