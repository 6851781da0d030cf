# Every target does its own set-up. The first set-up downloads PyTorch with its CUDA libraries; later ones take no time.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCKS := requirements/build.txt requirements/dev.txt requirements/runtime.txt
PENSTOCK_CACHE ?= $(HOME)/.cache/penstock
HELM_VERSION := v3.22.0
HELM := $(PENSTOCK_CACHE)/bin/helm-$(HELM_VERSION)
ARGS ?=
# Tests on a broker wait much of their time.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

# Trust what the machine trusts, a company's own authority included, as pip does.
export UV_SYSTEM_CERTS ?= true

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults mutations check format bench lock helm-tool clean

help: ## show this list
	@echo "make TARGET [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## create .venv with the pinned requirements and this project

demo: $(READY) ## broker, simulated pumps, the service and an audit (ARGS="--seconds 30")
	@$(BIN)/penstock demo $(ARGS)

test: $(READY) ## all tests, those on a real broker included (ARGS="tests/codec")
	@$(BIN)/pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadgroup $(ARGS)

faults: $(READY) ## the fault suite's long rounds, half an hour and more; the table goes to build/faults.md (ARGS="-k kills")
	@PENSTOCK_FAULTS=long PENSTOCK_FAULTS_REPORT=build/faults $(BIN)/pytest --timeout=3600 tests/faults $(ARGS)

mutations: $(READY) ## break the service on purpose, one way at a time: the tests must turn red (ARGS="replay")
	@$(BIN)/python -m tests.faults.mutations $(ARGS)

check: $(READY) ## formatting, lint, types, import directions, Dockerfile, compose file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(READY) ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## throughput beside peers, of the service (ARGS="service --json") or of the engine alone (ARGS="engine")
	@$(BIN)/penstock bench $(or $(ARGS),service)

# Triton, a gigabyte, serves torch.compile alone, which penstock does not use: the image goes without.
lock: $(READY) ## pin the requirements anew (ARGS="--upgrade" for newer versions)
	@set -e; compile() { $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-emit-index-url --custom-compile-command "make lock" $(ARGS) "$$@"; }; \
	compile requirements/build.in -o requirements/build.txt; \
	compile pyproject.toml --extra dev -c requirements/build.txt -o requirements/dev.txt; \
	compile pyproject.toml -c requirements/dev.txt --no-emit-package triton -o requirements/runtime.txt

helm-tool: ## print the path of helm; where there is none, build it with Go into the cache folder
	@command -v helm || { $(MAKE) --silent $(HELM) && echo $(HELM); }

clean: ## remove the environment and every cache in this folder
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Where PYTHONDONTWRITEBYTECODE is set, every start would compile the service anew, half a second's work; the image has it compiled too.
# The first Python >= 3.11 that runs: a name on PATH may be a shim without a Python behind it.
$(READY): $(LOCKS) pyproject.toml hatch_build.py service/streaming/native/rows.c
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
			if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "penstock needs Python 3.11 or newer. Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; \
		fi; \
		echo "making $(VENV) with $$($$found --version); PyTorch and its CUDA libraries are 5.6 GB, which takes a while the first time"; \
		$$found -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --reinstall-package penstock --editable .
	@$(BIN)/python -m compileall -q service
	@touch $@

$(HELM):
	@command -v go >/dev/null || { echo "building Helm needs Go: install Go, or put helm on PATH" >&2; exit 1; }
	@mkdir -p $(@D)
	CGO_ENABLED=0 GOBIN=$(@D)/.build nice go install -trimpath -ldflags "-s -w" helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
	@mv $(@D)/.build/helm $@ && rmdir $(@D)/.build
