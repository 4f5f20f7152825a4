# opt: platform=linux/arm64
# opt: build-arg:ARCH=arm64v8/
ARG ARCH=
FROM ${ARCH}base
RUN uname -m > /arch
CMD ["cat", "/arch"]
