# The few commands worth remembering. `make test` is what CI runs; `make stress` is the long version.
.PHONY: test lint check-deploy stress audit bench setup fmt

# Everything a fresh Debian machine with Rust still lacks.
setup:
	@./.ci/setup

test: setup
	cargo test --quiet --doc
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run; else cargo test --lib --tests; fi

lint: setup
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet --document-private-items
	@if command -v cargo-deny >/dev/null 2>&1; then cargo deny --log-level error check bans licenses sources; else echo "cargo-deny is not installed: run 'cargo install cargo-deny --locked' to check licences and advisories"; fi

# Long forms of the tests that run a bounded share in `make test`: crashes, races, property tests. Their names begin with `stress_`.
# About half an hour on two cores.
stress: export CODESWARM_STRESS = 1
stress: export PROPTEST_CASES ?= 10000
stress: setup
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --release --profile stress; else cargo test --release --lib --tests -- --nocapture --test-threads=1 stress_; fi

# Known vulnerabilities of the dependency tree; needs the advisory database, which it fetches.
audit:
	cargo deny check advisories

bench:
	cargo bench --bench makespan
	cargo bench --bench budget
	cargo bench --bench budget -- redis
	cargo bench --bench guards
	cargo bench --bench queues
	cargo bench --bench fleet

fmt:
	cargo fmt

# Everything that deploys the fleet, checked without deploying it, and the checks themselves.
check-deploy: setup
	./deploy/check
	./deploy/check-selftest
