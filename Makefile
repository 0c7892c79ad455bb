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

# contracts
.PHONY: test-deep coverage-contracts mutation slither gas gas-accept bench-contracts verification-json

test-deep: setup ## 100,000 runs per property and 1,000,000 calls per invariant (hours)
	@FOUNDRY_PROFILE=deep $(NODE)/forge test $(ARGS)

coverage-contracts: setup ## line and branch coverage of the contracts
	@$(BIN)/python scripts/coverage.py

mutation: setup ## kill mutants of the contracts (ARGS="--limit 40 --seed 1")
	@$(BIN)/python scripts/mutation.py $(ARGS)

slither: setup ## static analysis of the contracts, in an environment of its own
	@$(BIN)/python scripts/static.py

gas: setup ## gas of every contract test against the snapshot, 2 % allowed
	@$(NODE)/forge snapshot --snap tests/contracts/gas-snapshot --check --tolerance 2 --no-match-contract "InvariantsTest|AttacksTest" --no-match-test "test_floor|test_lanes|test_trimming|test_noise"

gas-accept: setup ## accept the gas of every contract test as the new snapshot
	@$(NODE)/forge snapshot --snap tests/contracts/gas-snapshot --no-match-contract "InvariantsTest|AttacksTest" --no-match-test "test_floor|test_lanes|test_trimming|test_noise"

bench-contracts: setup ## gas per call on Anvil against the targets and the peer
	@$(BIN)/python tests/benchmarks/bench_contracts.py $(ARGS)

verification-json: setup ## standard-JSON input of every contract for block explorers, in build/verification
	@$(BIN)/python scripts/verification.py
