# platforms: linux/amd64,linux/arm64,linux/arm/v7
FROM --platform=linux/amd64 base AS build-amd64
RUN echo for amd64 > /made
FROM --platform=linux/arm64 base AS build-arm64
RUN echo for arm64 > /made
FROM --platform=linux/arm/v7 base AS build-arm
RUN echo for arm > /made

ARG TARGETARCH
FROM build-$TARGETARCH
ARG TARGETARCH
RUN echo "$TARGETARCH" >> /made
