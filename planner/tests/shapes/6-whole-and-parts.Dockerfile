# platforms: linux/amd64,linux/arm64
FROM --platform=$BUILDPLATFORM base AS builder
COPY src/ /src/
RUN make

FROM base AS for-amd64
COPY . /all
FROM base AS for-arm64
COPY conf/arm64.conf /etc/app.conf

ARG TARGETARCH
FROM for-$TARGETARCH
COPY --from=builder /out /out
RUN ls -lR /out
