# platforms: linux/amd64,linux/arm64
FROM base
RUN one
RUN --network=host two
RUN three
