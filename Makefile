# The commands of this project. Each sets the checkout up first, which costs nothing when nothing has changed.

PYTHON ?= python3
BIN := .venv/bin
NODE := node_modules/.bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-python test-contracts lint fmt types contracts lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv and node_modules ready
	@$(PYTHON) scripts/dev.py setup

demo: setup ## publish, train, check, merge and pay on a local chain (ARGS="--help" for options)
	@$(BIN)/commonweight demo $(ARGS)

test: setup ## run every test
	@$(PYTHON) scripts/dev.py test $(ARGS)

test-fast: setup ## run the tests that need no chain and little time
	@$(BIN)/pytest -q -m "not slow and not chain" $(ARGS)

lint: setup ## check the style of Python and Solidity
	@$(BIN)/ruff check .
	@$(NODE)/forge fmt --check

types: setup ## check the types
	@$(BIN)/mypy

fmt: setup ## put Python and Solidity into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(NODE)/forge fmt

contracts: setup ## compile the contracts and package their interfaces for Python
	@$(NODE)/forge build
	@$(BIN)/python scripts/export_abis.py

lock: setup ## choose newer dependencies and pin them by hash
	@$(PYTHON) scripts/dev.py lock

clean: ## remove what set-up, builds and runs made
	rm -rf .venv node_modules build dist reports .commonweight .pytest_cache .mypy_cache .ruff_cache .hypothesis

# TOPLOC: figures beside the published package, and fuzzing

RUNS ?= 200000
TARGETS ?= header meta leaves spec task_file evidence update manifest opening proofs package_face sketch state
SITE = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")

.PHONY: bench-toploc fuzz

bench-toploc: setup build/bench-venv/toploc ## measure verification beside toploc 0.1.6 (ARGS="parity speed cost ...")
	@OMP_NUM_THREADS=1 build/bench-venv/bin/python -m tests.benchmarks.toploc $(ARGS)

# The package's wheel does not import under this torch, so it is built from source, in an environment of its own.
build/bench-venv/toploc:
	@echo "building toploc 0.1.6 from source: some minutes of work, once"
	@$(BIN)/python -m venv build/bench-venv
	@echo "import site; site.addsitedir('$(SITE)')" > $$(build/bench-venv/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/project.pth
	@build/bench-venv/bin/python -m pip install -q setuptools wheel ninja
	@build/bench-venv/bin/python -m pip install -q --no-build-isolation --no-deps --no-binary toploc toploc==0.1.6
	@touch $@

fuzz: setup build/fuzz-venv/atheris ## fuzz every decoder (RUNS=10000000 TARGETS="proofs sketch" for a long run)
	@for target in $(TARGETS); do OMP_NUM_THREADS=1 build/fuzz-venv/bin/python -m tests.fuzz $$target $(RUNS) || exit 1; done

build/fuzz-venv/atheris:
	@$(BIN)/python -m venv build/fuzz-venv
	@echo "import site; site.addsitedir('$(SITE)')" > $$(build/fuzz-venv/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/project.pth
	@build/fuzz-venv/bin/python -m pip install -q "atheris>=3,<4"
	@touch $@
