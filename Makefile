# Thin: each target is a line or two. `make demo` shows rootbeam at work, `make test` passes every test.
CARGO ?= cargo
triple = $(shell rustc --print host-tuple)
built = $(or $(CARGO_TARGET_DIR),target)/$(triple)

.PHONY: build demo demo-stop test matrix soak bench lint deps

build:  ## both binaries, side by side in out/
	$(CARGO) build --locked --profile init --package rootbeam-init --bin init
	$(CARGO) build --locked --release --package rootbeam --bin rootbeam
	install -D $(built)/init/init out/init
	install -D $(built)/release/rootbeam out/rootbeam

demo: deps build  ## a Debian web node comes up in RAM over the network; KEEP=1 leaves it running
	@examples/demo

demo-stop:  ## stops the machine that `make demo KEEP=1` left running
	@examples/demo stop

test: build  ## unit tests and the claims of both beds
	$(CARGO) test --locked --workspace --no-fail-fast

matrix: build  ## the wide cases; rows that held for the same binaries are not run again
	ROOTBEAM_MATRIX=1 $(CARGO) test --locked --package rootbeam-qemu-tests --test claims

soak: build  ## boots under random faults; SOAK=1000 of them, from number SEED on, MINUTES=60 at most
	ROOTBEAM_SOAK=$(or $(SOAK),1000) ROOTBEAM_SEED=$(SEED) ROOTBEAM_SOAK_MINUTES=$(MINUTES) \
	$(CARGO) test --locked --package rootbeam-qemu-tests --test claims -- --test-threads=12

bench: build  ## the budgets as ratios; ROWS="init ram-100" chooses, RUNS=9 repeats, JSON=FILE keeps
	$(CARGO) build --locked --release --package rootbeam-qemu-tests --bins
	$(built)/release/bench $(RUNS:%=--runs %) $(JSON:%=--json %) $(ROWS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings

deps:  ## installs what this machine lacks (Debian)
	.ci/deps
