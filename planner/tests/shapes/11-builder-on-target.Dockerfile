# platforms: linux/amd64,linux/arm64
FROM busybox AS builder
WORKDIR /src
COPY . .
RUN go mod download
RUN CGO_ENABLED=0 go build -o /app .

FROM busybox AS pages
WORKDIR /web
COPY web .
RUN npm ci
RUN npm run build

FROM busybox AS modules
WORKDIR /web
RUN npm ci && npm run build

FROM busybox AS native
RUN make

FROM busybox
COPY --from=native /out /native
COPY --from=builder /app /app
COPY --from=pages /web/dist /web
COPY --from=modules /web /modules
