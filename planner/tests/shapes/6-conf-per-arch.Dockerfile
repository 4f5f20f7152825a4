# platforms: linux/amd64,linux/arm64,linux/s390x
FROM --platform=$BUILDPLATFORM base AS builder
COPY src/ /src/
RUN --mount=type=bind,source=tools,target=/tools make
FROM base
ARG TARGETARCH
COPY conf/$TARGETARCH.conf /etc/app.conf
COPY --from=builder /out /out
RUN cat /etc/app.conf
