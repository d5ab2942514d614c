# `make` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup python build demo test test-tls test-links bench chaos scale soak fuzz check advisories man deb package fmt

CARGO ?= cargo
# For instance: make test TEST_FLAGS=--no-fail-fast
TEST_FLAGS ?=
# Most of them wait at the gate of the tests (CONTRIBUTING.md), so that those that take long begin early.
export RUST_TEST_THREADS ?= 48
# The crates that are published, in the order in which they depend on each other.
PUBLISHED = -p palm-proto -p palm-peer -p palm-cli
# How long each of the targets is tried.
FUZZ_SECONDS ?= 60
# For instance: make bench BENCH='calls 256 palm nats'
BENCH ?=
# The sizes that `make scale` measures. For instance: make scale N='100 1000 5000 clients=20'
N ?=
# What `make chaos` does. For instance: make chaos CHAOS='hold=20 seconds=60 seeds=10'
CHAOS ?=
# How long `make soak` goes on.
SOAK_SECONDS ?= 900

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: protoc, etcd, etcdctl, openssl
	@scripts/setup

python: setup
	@scripts/python

build: setup ## build the library, palm-cli and the examples
	$(CARGO) build --workspace --bins --examples

demo: build ## watch a mesh on this machine: servers, a client, a leader that dies
	@scripts/demo

test: build python ## run all tests, with etcd processes of their own
	$(CARGO) test --workspace $(TEST_FLAGS)

test-tls: build ## run the tests of the mesh over TLS
	@scripts/test-tls

test-links: build ## run the tests of untrusted input, calls and jobs once more, over the other kind of link each
	@scripts/test-links

bench: python ## measure calls and jobs beside ZeroMQ, gRPC, NATS and pylm, and what the ingress, TLS and metrics cost (docs/benchmarks.md)
ifeq ($(strip $(BENCH)),metrics)
	@$(CARGO) bench -p palm-tests --bench metrics
else
	@scripts/pylm
	@$(CARGO) bench -p palm-tests --bench table -- $(BENCH)
endif
ifeq ($(strip $(BENCH)),)
	@echo && echo '### What the ingress and TLS cost' && echo
	@$(CARGO) bench -p palm-tests --features bench --bench ingress
	@echo && $(CARGO) bench -p palm-tests --bench metrics
endif

scale: setup ## what meshes of N servers cost the leader, etcd and the clients, and how they take failures: N="100 1000" (docs/benchmarks.md)
	@$(CARGO) build --release -p palm-cli
	@$(CARGO) bench -p palm-tests --bench scale -- $(N)

chaos: build ## a mesh of five hosts whose network fails in every way, for an hour: no healthy server is removed, no message is lost (docs/reliability.md)
	@$(CARGO) bench --profile dev -p palm-tests --bench chaos -- $(CHAOS)

soak: setup ## a mesh under load, kills and churn for 15 minutes: memory, descriptors and threads stay flat (docs/reliability.md)
	@$(CARGO) bench -p palm-tests --bench soak -- $(SOAK_SECONDS)

fuzz: setup ## look for bytes that violate a property of the parsers: nightly Rust and cargo-fuzz (CONTRIBUTING.md)
	@scripts/fuzz $(FUZZ_SECONDS)

check: setup ## check formatting, lints, features, documentation, layers, scripts, licences and packages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	scripts/check-features
	$(CARGO) clippy -p palm-tests --features bench --bench ingress -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace
	scripts/check-layers --self-test
	scripts/check-layers
	$(CARGO) check --package palm-fuzz --features targets --all-targets
	scripts/if-installed shellcheck shellcheck .ci/run scripts/*
	scripts/if-installed cargo-deny $(CARGO) deny --locked check bans licenses sources
	$(CARGO) package $(PUBLISHED) --no-verify --allow-dirty

advisories: ## look for known faults in the dependencies: cargo-deny and the network
	scripts/if-installed cargo-deny $(CARGO) deny --locked check advisories

man: build ## write the man pages of palm-cli to target/man
	target/debug/palm-cli __man target/man

deb: setup ## make the Debian package of palm-cli: target/debian/*.deb; needs cargo-deb (docs/operations.md)
	@scripts/deb

package: ## make the packages for crates.io, and compile what is in them (RELEASING.md)
	$(CARGO) package $(PUBLISHED)

fmt: ## format the sources
	$(CARGO) fmt --all
