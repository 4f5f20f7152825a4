# platforms: linux/amd64,linux/arm64
# linked: yes
FROM --platform=$BUILDPLATFORM base AS builder
RUN make common
FROM base
COPY --from=builder /common /common
RUN ldconfig
