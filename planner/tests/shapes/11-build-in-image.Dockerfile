# platforms: linux/amd64,linux/arm64
FROM busybox
WORKDIR /src
COPY . .
RUN apk add make && \
    make
RUN go build -o /app .
CMD ["/app"]
