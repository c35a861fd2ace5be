# The commands of the house. `make run` and `make test` are all that a fresh machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run venv venv-dev test check lint unit need bench fuzz soak lock format clean

run: venv            ## set up and start the daemon with embedded defaults
	@$(BIN)/medianode serve

venv: $(VENV)/.runtime $(VENV)/.web

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "medianode needs Python 3.11 or newer; this is $$($(PYTHON) --version). Say make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "this Python cannot make a venv: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python requirements.lock pyproject.toml
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

# hls.js comes from npm; without npm the pages still play natively and over MJPEG, and say so
$(VENV)/.web: $(VENV)/bin/python package-lock.json
	@if ! command -v npm >/dev/null; then \
	  echo "npm is missing: pages will play natively and over MJPEG only (apt-get install npm, then make venv)"; \
	elif npm ci --omit=dev --ignore-scripts --no-audit --no-fund --silent; then \
	  mkdir -p medianode/web/static/vendor && \
	  cp node_modules/hls.js/dist/hls.min.js medianode/web/static/vendor/hls.min.js && \
	  cp node_modules/hls.js/LICENSE medianode/web/static/vendor/hls.LICENSE.txt && touch $@; \
	else echo "npm could not bring hls.js: pages will play natively and over MJPEG only; make venv tries again"; fi

venv-dev: venv $(VENV)/.dev

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

check: lint unit     ## format, lint, types, floors, unit tests

lint: venv-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: venv-dev       ## on its own, so that `make check test` runs it once
	$(BIN)/pytest -q -n 2 tests/unit

need:
	@sh tests/need.sh

test: need unit      ## all tests; installs what they need where it may (Debian packages by apt-get)
	$(BIN)/pytest -q -n 2 tests/property
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not alone" tests/integration tests/interop
	$(BIN)/pytest -q -m alone tests/integration tests/interop tests/soak

soak: venv-dev       ## ten minutes of churn
	SOAK_SECONDS=600 $(BIN)/pytest -q tests/soak

bench: venv-dev      ## all benchmarks, each prints a ratio
	@sh tests/need.sh
	$(BIN)/python -m bench

fuzz: venv-dev       ## FUZZ_SECONDS each (default 60) on every parser
	@for target in tests/fuzz/fuzz_*.py; do echo "== $$target"; \
	  $(BIN)/python $$target -max_total_time=$${FUZZ_SECONDS:-60} -rss_limit_mb=2048 || exit 1; done

format: venv-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: venv-dev       ## renew both locks: versions and hashes, no addresses
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-trusted-host --no-header --output-file requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-trusted-host --no-header --allow-unsafe --extra dev --output-file requirements-dev.lock pyproject.toml

clean:
	rm -rf $(VENV) node_modules build medianode/web/static/vendor
