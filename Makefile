# The commands of this project. Each sets the checkout up first, which costs nothing when nothing has changed.

PYTHON ?= python3
BIN := .venv/bin
NODE := node_modules/.bin
ARGS ?=

.DEFAULT_GOAL := help
# No target is a file.
.PHONY: $(shell sed -n "s/^\([a-z-]*\):.*/\1/p" Makefile)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv and node_modules ready
	@$(PYTHON) scripts/dev.py setup

demo: setup ## publish, train, check, merge and pay on a local chain (ARGS="--help" for options)
	@$(BIN)/commonweight demo $(ARGS)

test: setup ## run the tests, all but the long scenarios of test-soak
	@$(PYTHON) scripts/dev.py test $(ARGS)

test-fast: setup ## run the tests that need no chain and little time
	@$(BIN)/pytest -q -m "not slow and not chain and not soak" $(ARGS)

test-soak: setup ## scenarios of whole roles and swarms under faults (ten minutes and more)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -m soak $(ARGS)

lint: setup ## check the style of Python and Solidity
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(NODE)/forge fmt --check

types: setup ## check the types
	@$(BIN)/mypy

abis: setup ## check that the packaged interfaces are those of the sources
	@$(BIN)/python scripts/export_abis.py --check

fmt: setup ## put Python and Solidity into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(NODE)/forge fmt

contracts: setup ## compile the contracts and package their interfaces for Python
	@$(NODE)/forge build
	@$(BIN)/python scripts/export_abis.py

lock: setup ## choose newer dependencies and pin them by hash
	@$(PYTHON) scripts/dev.py lock

# Collectives

bench-collectives: setup ## all-reduce beside gloo and PCCL, and on a slow link (minutes; ARGS="--quick")
	@$(BIN)/python -m tests.benchmarks.bench_collectives $(ARGS)

soak-collectives: setup ## ten minutes of kills, hangs and restarts (ARGS="--minutes 2")
	@$(BIN)/python -m tests.benchmarks.soak_collectives $(ARGS)

clean: ## remove what set-up, builds and runs made
	rm -rf .venv node_modules build dist reports .commonweight .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Reinforcement learning

demo-rl: setup ## learn by reinforcement on a local chain with 3 trainers, 2 seeds, plotted
	@$(BIN)/commonweight demo-rl $(ARGS)

test-extras: setup build/extras-venv/ready ## the adapters of optional libraries (verifiers, transformers) against the libraries
	@PYTHONPATH=. OMP_NUM_THREADS=1 build/extras-venv/bin/python -m pytest -q -c pyproject.toml tests/extras $(ARGS)

build/extras-venv/ready:
	@echo "installing verifiers and transformers into an environment of their own (700 MB, once)"
	@$(BIN)/python -m venv build/extras-venv
	@build/extras-venv/bin/python -m pip install -q "verifiers==0.4.0" "transformers>=5.23,<6"
	@printf '%s\n' "import site; site.addsitedir('$(SITE)')" "$(CURDIR)/tests/extras/tasksets" > $$(build/extras-venv/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/project.pth
	@touch $@

bench-rl: setup ## measure rollouts, proofs, asynchrony and cheats beside Hugging Face generate()
	@$(BIN)/python -m tests.benchmarks.rl $(ARGS)

# diloco

demo-diloco: setup ## train across 6 processes over a sparse graph; two are killed, one joins late
	@$(BIN)/commonweight demo-diloco $(ARGS)

bench-diloco: setup ## measure quality per byte (ARGS="--config full" for every section and two seeds)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_diloco.py $(ARGS)

faults-diloco: setup ## kill -9 a member of a swarm every 10 s over 10 minutes (ARGS="--minutes 2")
	@$(BIN)/python tests/benchmarks/faults_diloco.py $(ARGS)

# TOPLOC: figures beside the published package, and fuzzing

RUNS ?= 200000
TARGETS ?= header meta leaves spec task_file evidence update manifest opening proofs package_face sketch state \
	mix_leaf anchor gram message wire feedback version_record rumours authorization place bundle trajectories completion \
	share chain
SITE = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")

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

fuzz: setup build/fuzz-venv/atheris ## fuzz every decoder (RUNS=500000 TOTAL=10000000 TARGETS="proofs" goes on to a total)
	@for target in $(TARGETS); do OMP_NUM_THREADS=1 build/fuzz-venv/bin/python -m tests.fuzz $$target $(RUNS) $(TOTAL) || exit 1; done

build/fuzz-venv/atheris:
	@$(BIN)/python -m venv build/fuzz-venv
	@echo "import site; site.addsitedir('$(SITE)')" > $$(build/fuzz-venv/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/project.pth
	@build/fuzz-venv/bin/python -m pip install -q "atheris>=3,<4"
	@touch $@

# shardcast

bench-shardcast: setup ## spreading and merging beside shardcast 0.3.2 (half an hour; ARGS="scale deltas" for some rows)
	@OMP_NUM_THREADS=1 PYTHONPATH=.:offchain $(BIN)/python -m tests.benchmarks.shardcast $(ARGS)

# contracts

TRACES ?= 300

test-deep: setup ## 100,000 runs per property, 1,000,000 calls per invariant, 300 traces (hours; ARGS="--minutes 9", goes on where it stopped)
	@$(BIN)/python -m scripts.deep $(ARGS)

test-reorgs: setup ## reorganisations of depth 1 to 64 at every step (ARGS="--minutes 9"; goes on where it stopped)
	@$(BIN)/python -m tests.integration.reorg_matrix $(ARGS)

parity: setup ## random calls to the contracts and to their model in Python (ARGS="--seed 7 --traces 20 --actions 600")
	@$(BIN)/python -m tests.reference.protocol $(ARGS)

coverage-contracts: setup ## line and branch coverage of the contracts
	@$(BIN)/python scripts/coverage.py

mutation: setup ## kill every mutant of the contracts (ARGS="--minutes 9"; goes on where it stopped)
	@$(BIN)/python -m scripts.mutation $(ARGS)

slither: setup ## static analysis of the contracts, in an environment of its own
	@$(BIN)/python scripts/static.py

symbolic: setup ## prove properties of Vault and Exact for every argument, in an environment of its own
	@$(BIN)/python scripts/symbolic.py $(ARGS)

gas: setup ## gas of every contract test against the snapshot, 2 % allowed
	@$(NODE)/forge snapshot --snap tests/contracts/gas-snapshot --check --tolerance 2 --no-match-contract "InvariantsTest|AttacksTest|PropertiesTest|EdgesTest" --no-match-test "test_floor|test_lanes|test_trimming|test_noise|test_packing"

gas-accept: setup ## accept the gas of every contract test as the new snapshot
	@$(NODE)/forge snapshot --snap tests/contracts/gas-snapshot --no-match-contract "InvariantsTest|AttacksTest|PropertiesTest|EdgesTest" --no-match-test "test_floor|test_lanes|test_trimming|test_noise|test_packing"

bench-contracts: setup ## gas per call on Anvil against the targets and the peer
	@$(BIN)/python tests/benchmarks/bench_contracts.py $(ARGS)

verification-json: setup ## standard-JSON input of every contract for block explorers, in build/verification
	@$(BIN)/python scripts/verification.py $(ARGS)

# deployment

brownie-networks: setup ## tell Brownie about the networks of `commonweight network list`, as commonweight-NAME
	@$(BIN)/commonweight network brownie build/brownie-networks.yaml
	@$(BIN)/brownie networks import build/brownie-networks.yaml True

test-ganache: setup build/ganache/node_modules/.bin/ganache ## deploy by the command line and by Brownie on Ganache 7, and play a round there
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/ganache $(ARGS)

build/ganache/node_modules/.bin/ganache:
	@echo "installing ganache 7.9.2 into build/ganache, for this target only"
	@npm install --prefix build/ganache --ignore-scripts --no-save --no-audit --no-fund ganache@7.9.2
