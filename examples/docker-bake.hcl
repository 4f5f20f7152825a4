// All examples in one go: docker buildx bake --push
variable "REGISTRY" {
  default = "localhost:5000"
}

variable "BASE" {
  default = "busybox"
}

variable "PLATFORMS" {
  default = "linux/amd64,linux/arm64,linux/ppc64le,linux/s390x"
}

group "default" {
  targets = ["cross-compile", "scratch", "per-platform"]
}

target "_all" {
  args      = { BASE = BASE }
  platforms = split(",", PLATFORMS)
}

target "cross-compile" {
  inherits = ["_all"]
  context  = "cross-compile"
  tags     = ["${REGISTRY}/cross-compile"]
}

target "scratch" {
  inherits = ["_all"]
  context  = "scratch"
  tags     = ["${REGISTRY}/scratch"]
}

target "per-platform" {
  inherits = ["_all"]
  context  = "per-platform"
  tags     = ["${REGISTRY}/per-platform"]
}
