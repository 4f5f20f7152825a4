# platforms: linux/amd64
FROM --platform=linux/amd64 base AS one
RUN echo one > /one
FROM --platform=linux/arm64 base AS two
COPY --from=one /one /
RUN echo two > /two
FROM --platform=linux/amd64 base
COPY --from=two /one /two /
RUN cat /one /two
