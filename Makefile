# Everything starts here: `make help` lists it. The first run makes .tools/ (uv) and .venv/ by itself.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
RUN := .venv/bin/
RUNTIME := runtimes/kserve-onnx
COMPOSE_TEST_ARGS ?=
SOURCES := packages services tests tools examples bench
BREAKING_BASE := proto/baseline.binpb
PYTEST_ARGS ?=
# So many tests run at once (tests/support/workers.py): on two cores one whole stack beside what is light, and more than six
# workers are not fed.
TEST_WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 3 ? 2 : cores < 6 ? cores : 6)))
SIDE_BY_SIDE := --numprocesses=$(TEST_WORKERS)
BENCH_ARGS ?=

export UV_PROJECT_ENVIRONMENT := .venv
# The interpreter that is here is the one that is used; nothing is fetched for it.
export UV_PYTHON_DOWNLOADS := never
# Hundreds of Python processes start here: without bytecode each would compile all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

##@ The two commands
.PHONY: demo test
demo: setup ## Set up, start the real stack, deliver one model, roll one back, before your eyes.
	$(RUN)tidegate demo

test: setup ## Set up and run every test, with branch coverage.
	$(RUN)coverage erase
	$(RUN)pytest $(SIDE_BY_SIDE) --cov --cov-branch --cov-report=term $(PYTEST_ARGS) tests

##@ Parts of the tests
.PHONY: test-more test-unit test-contract test-simulation test-integration test-e2e test-chaos
test-unit test-contract test-simulation test-integration test-e2e test-chaos: test-%: setup ## Run one tier of the tests.
	$(RUN)pytest $(PYTEST_ARGS) tests/$*

test-more: setup ## Repeat more often what tests by chance show: 1000 seeds and examples instead of a hundred.
	TIDEGATE_TEST_MORE=1 $(RUN)pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS) tests/unit tests/contract tests/simulation

##@ Benchmarks
.PHONY: bench
bench: setup ## Run every benchmark (about an hour): a table each, results in bench/results/ (docs/benchmarks.md).
	$(RUN)python -m bench all

bench-%: setup ## Run one: memory, envoy, ... (BENCH_ARGS=--quick: seconds, judges no time).
	$(RUN)python -m bench $* $(BENCH_ARGS)

##@ Simulation
SEEDS ?= 1000
FIRST_SEED ?= 0
.PHONY: simulate
simulate: setup ## Simulate the control loop from SEEDS seeds (default 1000), beginning with FIRST_SEED.
	$(RUN)python -m tidegate.simulation --seeds $(SEEDS) --seed $(FIRST_SEED)

##@ Quality
.PHONY: check lint types boundaries proto check-generated compose-check format
check: lint types boundaries proto check-generated compose-check ## Everything that needs no running part.

lint: setup ## Lint and formatting.
	$(RUN)ruff check .
	$(RUN)ruff format --check .

types: setup ## Static types, strict.
	$(RUN)mypy packages services tools deploy bench

boundaries: setup ## Who may import whom.
	$(RUN)lint-imports

proto: setup ## Lint of the contract, and no breaking change against the committed baseline.
	$(RUN)buf lint
	$(RUN)buf format --diff --exit-code
	$(RUN)buf breaking --against $(BREAKING_BASE)

check-generated: setup ## The committed generated code is current.
	$(RUN)python tools/check_generated.py

compose-check: setup ## The compose file is valid, by the real Compose.
	@set -a && source <($(PYTHON) deploy/new_env.py -) && set +a \
	  && $(RUN)docker-compose --file docker-compose.yml --env-file /dev/null config --quiet
	@echo "docker-compose.yml is valid"

format: setup ## Put the code in shape.
	$(RUN)ruff check --fix .
	$(RUN)ruff format .
	$(RUN)buf format --write

##@ The contract
.PHONY: generate proto-baseline
generate: setup ## Generate the Python code of proto/.
	$(RUN)python tools/generate.py

proto-baseline: setup ## Accept the contract as it is now as the baseline (at a release).
	$(RUN)buf build --output $(BREAKING_BASE)

##@ The embedded stack
.PHONY: up down status
up: setup ## Start the embedded stack.
	$(RUN)tidegate up

down: setup ## Stop it.
	$(RUN)tidegate down

status: setup ## Say how it is.
	$(RUN)tidegate status

##@ Containers
.PHONY: compose-test
compose-test: setup ## Start docker-compose.yml for real and play the demo's story on it (COMPOSE_TEST_ARGS=--help).
	PYTHONPATH=deploy $(RUN)python -m composetest $(COMPOSE_TEST_ARGS)

##@ Set-up
.PHONY: setup clean help
setup: .venv/.synced $(RUNTIME)/.venv/.synced ## Make the environments (done by every target that needs them).

$(UV):
	@$(PYTHON) tools/check_platform.py
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.synced: $(UV) uv.lock pyproject.toml $(wildcard packages/*/pyproject.toml services/*/pyproject.toml)
	@echo "setting up .venv: the first time, packages are downloaded (sizes below)"
	$(UV) sync --frozen --python $(PYTHON)
	@touch $@

$(RUNTIME)/.venv/.synced: $(UV) $(RUNTIME)/uv.lock $(RUNTIME)/pyproject.toml
	@echo "setting up the model server's environment, $(RUNTIME)/.venv (ONNX Runtime and the KServe SDK)"
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --frozen --compile-bytecode --python $(PYTHON) --project $(RUNTIME)
	@touch $@

clean: ## Remove the environments and the data of the embedded stack (stop it first).
	rm -rf .venv .tools .tidegate $(RUNTIME)/.venv

help: ## List the targets.
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z][a-z0-9%. -]*:.*##/ {split($$1, names, ":"); printf "  make %-18s %s\n", names[1], $$2}' $(MAKEFILE_LIST)
