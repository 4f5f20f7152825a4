# platforms: linux/amd64,linux/arm64,linux/ppc64le,linux/s390x
FROM base
RUN uname -m > /arch
