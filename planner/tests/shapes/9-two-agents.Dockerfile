# platforms: linux/amd64,linux/arm64,linux/ppc64le,linux/s390x
FROM --platform=$BUILDPLATFORM base AS left
COPY left/ .
RUN make left
FROM --platform=$BUILDPLATFORM base AS right
COPY right/ .
RUN make right

FROM --platform=$BUILDPLATFORM base AS cross
COPY --from=left /left /
COPY --from=right /right /
ARG TARGETARCH
RUN link /left /right $TARGETARCH

FROM scratch
COPY --from=cross /app /
