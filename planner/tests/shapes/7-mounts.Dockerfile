# platforms: linux/amd64,linux/arm64
FROM --platform=$BUILDPLATFORM base AS tools
RUN make tools

FROM --platform=$BUILDPLATFORM base AS builder
RUN --mount=type=cache,id=mods,sharing=locked,target=/mods download
RUN --mount=type=bind,from=tools,source=/tools,target=/tools --mount=type=tmpfs,target=/tmp /tools/gen
ARG TARGETARCH
RUN --mount=type=cache,id=mods,sharing=locked,target=/mods --mount=type=secret,id=token --mount=type=ssh compile $TARGETARCH

FROM base
RUN --mount=type=cache,target=/var/cache/apt install
COPY --from=builder /out /out
