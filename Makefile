# The commands of this repository. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help run build test browser metrics schemathesis model fuzz chaos crashes bench bench-http bench-ingest deny deps

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target words; do \
		printf '%-18s %s\n' "$$target" "$$words"; done

# Its profile compiles in a fraction of the time and runs slower than `build`; see Cargo.toml.
run: deps ## Install what is missing, build quickly, and serve the movies on 127.0.0.1:5000
	cargo build --profile quick --locked
	exec cargo run --profile quick --locked --quiet -- serve

build: deps ## Build the optimised program: target/release/poolhouse
	cargo build --release --locked

# Most stories wait for something most of the time: two processors serve four of them in three quarters of the time of two.
test: deps ## Install what is missing; check format, lints and docs; run all tests
	@sh config/install-deps.sh test
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test chaos --test crashes -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} cargo test --locked
	cargo test --locked --lib --no-default-features

metrics: deps ## Check metrics, alerts and dashboard with Prometheus' promtool (Debian: unpacks it below target)
	@sh config/install-deps.sh metrics
	cargo test --locked --test integration -- metrics::

browser: deps ## Look at the live page in Chromium, against a real service; PICTURES=directory keeps pictures of it
	@sh config/install-deps.sh browser
	cargo build --locked
	cargo run --locked --quiet --manifest-path tests/browser/Cargo.toml --target-dir target/browser -- \
		target/debug/poolhouse $(PICTURES)

# It adds, replaces and removes movies and documents: not for a service whose data matters. A fresh clone's has the token of .env.dev.
schemathesis: ## Random requests to a running service (`make run`), checked against its /api/openapi.json; URL=… TOKEN=… EXAMPLES=300
	@test -x target/schemathesis/bin/schemathesis || { python3 -m venv target/schemathesis && \
		target/schemathesis/bin/pip install --quiet schemathesis==4.32.5; }
	@sh tests/schemathesis.sh "$(or $(URL),http://127.0.0.1:5000)" "$(or $(EXAMPLES),300)"

# In a target folder of its own, because the flag would have the other targets compile everything again.
model: deps ## Explore the interleavings of the gate's threads (about a minute)
	RUSTFLAGS='--cfg poolhouse_shuttle' CARGO_TARGET_DIR=target/model \
		cargo test --locked --lib gate::tests::interleavings

# Runs every test that takes its number of random cases from PROPTEST_CASES. A failure prints the smallest input. The
# adversary runs each of its statements on a real server, and takes a twentieth of the cases.
fuzz: deps ## Random settings, headers, requests, rows, CSV, SQL texts and adversaries, CASES=20000 of each kind
	PROPTEST_CASES=$(or $(CASES),20000) cargo test --release --locked --lib --bins
	PROPTEST_CASES=$(or $(CASES),20000) cargo test --release --locked --test integration -- \
		settings::bad_values decode::round_trips hostile::a_damaged_request pool::adversary pool::messages

chaos: deps ## Break a real server for MINUTES=3, and check every reported outcome; SEED=… repeats a run
	cargo test --release --locked --test chaos -- --minutes $(or $(MINUTES),3) $(if $(SEED),--seed $(SEED))

crashes: deps ## Kill `poolhouse ingest` KILLS=20 times and its server, fill its disk, and compare the tables; SEED=… repeats a run
	cargo test --locked --test crashes -- --kills $(or $(KILLS),20) $(if $(SEED),--seed $(SEED))

bench: deps ## Measure the pool against its peers (benches/README.md)
	cargo build --release --locked
	cargo run --release --quiet --manifest-path benches/peers/Cargo.toml --target-dir target -- $(ARGS)

bench-http: deps ## Measure the service against the same endpoint written async (benches/README.md)
	@sh config/install-deps.sh bench-http
	cargo build --release --locked
	cargo run --release --locked --quiet --manifest-path benches/http/Cargo.toml --target-dir target -- $(ARGS)

bench-ingest: deps ## Measure `poolhouse ingest` with PostgreSQL's own HTML pages (benches/README.md)
	@sh config/install-deps.sh bench-ingest
	cargo build --release --locked
	cargo run --release --quiet --manifest-path benches/peers/Cargo.toml --target-dir target -- documents $(ARGS)

deny: ## Check the dependencies' licences, sources and security advisories (installs cargo-deny if missing)
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check --config config/deny.toml

deps: ## Install what is missing
	@sh config/install-deps.sh
