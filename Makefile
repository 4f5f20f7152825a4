# What a developer runs. Needs a Rust toolchain and a C compiler; all else is found or fetched by local/.

targets := $(abspath $(or $(CARGO_TARGET_DIR),target))
target := $(targets)/debug

.PHONY: help build install docs parts lint test test-long test-faults demo bench bench-readme

help:
	@echo "make demo   a farm, a build across it, and what happened; leaves nothing running"
	@echo "make test   every test, on real engines"
	@echo "make test-long  the same, with 500 random Dockerfiles instead of 30; takes an hour or more"
	@echo "make test-faults  farms that are broken on purpose; five to seven minutes on two cores; TIMES=2 for twice in a row"
	@echo "make bench  a farm against one of its engines, in figures; CASE=… for some of it, ROUNDS=… instead of 5"
	@echo "make bench-readme  the same, and puts the figures into the README"
	@echo "make docs   writes docs/commands anew, from the croft command's own texts"
	@echo "make install  the programs, completions and man pages, below PREFIX=/usr/local; DESTDIR= before that for packages"
	@echo "make lint   format and lints"
	@echo "make parts  find or fetch what a farm needs, and start nothing"
	@echo "dev/farm up|down|env|logs   a farm in the background"

build:
	cargo build --workspace --bins

install:
	cargo build --release --locked -p croft-coordinator -p croft-agent -p croft-client --bins
	PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' deploy/install.sh '$(targets)/release'

docs:
	CROFT_BLESS=1 cargo test -p croft-client --test docs pages

parts: build
	$(target)/croft-local fetch

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# The programs first: the end-to-end tests start them. The parts too, so that no test's patience runs out while they are fetched.
test: parts
	cargo test --workspace

test-long: parts
	CROFT_DIFFERENTIAL=500 cargo test --workspace

# All of them are in `make test` as well.
test-faults: parts
	for time in $$(seq $(or $(TIMES),1)); do cargo test -p croft-local --test faults -- --include-ignored || exit 1; done

demo: build
	$(target)/croft-local demo

# Measured are the farm's programs as people run them. The first time everything is compiled for that, which takes some minutes.
bench bench-readme: parts
	cargo build --release -p croft-coordinator -p croft-agent -p croft-client --bins
	CROFT_BIN_DIR=$(targets)/release cargo bench -p croft-local --bench bench --profile dev -- $(if $(filter %readme,$@),--readme) \
		$(foreach case,$(CASE),--case $(case)) $(if $(ROUNDS),--rounds $(ROUNDS))
