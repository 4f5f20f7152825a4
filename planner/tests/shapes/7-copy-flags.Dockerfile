# platforms: linux/amd64,linux/arm64
FROM --platform=$BUILDPLATFORM base AS builder
RUN make

FROM base
RUN adduser app
COPY --link --from=builder /a /a
COPY --chown=app:app --chmod=755 --from=builder /b /b
COPY --from=builder --chown=1000:1000 /c*/d /c/
COPY <<EOT /etc/here
hello
EOT
ADD --link https://example.test/file /file
ADD archive.tar.gz /opt/
USER app
RUN id
VOLUME /data
CMD ["/a"]
