# What can be done here: `make help`. Everything runs in .venv, which `make setup` makes from the locks.
# SAVE=1 writes the result of a long run to bench/results.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup lint test demo sim market leases scenario-approvals fuzz-contracts twins mutants crash e2e soak model net interop bench bench-files bench-exec contracts attacks wan followers docs lock clean
# Thousands of child processes import us: compiled once, not each time.
unexport PYTHONDONTWRITEBYTECODE
python := .venv/bin/python
SEEDS ?= 200
PARTITIONS ?= 1000000
MINUTES ?= 10
SEED ?= 1
SHAPES ?= wn,nw

help: ## this list
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do \
		printf '  make %-18s %s\n' "$$name" "$$text"; done

setup: ## make .venv (and, as root, install missing Debian packages); at once when nothing changed
	@scripts/setup.sh

lint: setup ## ruff, mypy --strict, and the layers of the house
	@.venv/bin/ruff check . && .venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo --cache-dir .cache/imports

test: lint ## lint, then every test; ARGS= goes to pytest (make test ARGS='tests/ledger -x')
	@$(python) -m pytest -n 2 $(ARGS)

demo: setup ## a whole network on this machine, start to finish; KEEP=1 leaves it running
	@$(python) -m node.demo $(if $(KEEP),--keep)

sim: setup ## the simulator over SEEDS=200 seeds
	@$(python) -m tests.sim.run --seeds $(SEEDS) $(if $(SAVE),--save)

market: setup ## claims, leases, approvals and money on simulated networks, over SEEDS=200 seeds
	@$(python) -m tests.sim.market --seeds $(SEEDS)

leases: setup ## leases alone: PARTITIONS=1000000 partitions with clock rates of +-1 %, none held twice (3 minutes)
	@$(python) -m tests.sim.market_leases --seeds $(PARTITIONS) $(if $(SAVE),--save)

scenario-approvals: setup ## what approval policies do on the ledger, as a table: case, expected, got; 100 signers timed
	@$(python) -m tests.ledger.approval_scenario

fuzz-contracts: setup ## changed contracts and what is answered, with counts (a minute)
	@$(python) -m tests.ledger.contract_fuzz 5000

twins: setup ## every small scenario with a Byzantine twin; SHAPES=nnn takes three rounds (half an hour)
	@$(python) -m tests.sim.twins --shapes $(SHAPES) $(if $(SAVE),--save)

mutants: setup ## break the product in 500 named ways; each must be noticed; ONLY= picks by name (20 minutes)
	@$(python) -m tests.mutants.run --only "$(ONLY)" $(if $(SAVE),--save)

crash: setup ## kill a validator of a real network at each point at which it persists something (3 minutes)
	@$(python) -m tests.e2e.crash --only "$(ONLY)" $(if $(SAVE),--save)

e2e: setup ## seven validators, each a process, under random kill, freeze and restart; MINUTES=10 SEED=1
	@$(python) -m tests.e2e.chaos --minutes $(MINUTES) --seed $(SEED) $(if $(SAVE),--save)

soak: setup ## the same without faults: growth of memory and open files; MINUTES=10
	@$(python) -m tests.e2e.chaos --soak --minutes $(MINUTES) --seed $(SEED) $(if $(SAVE),--save)

model: setup ## TLC checks the TLA+ model of consensus (Java and Maven; skipped without; 5 minutes)
	@$(python) -m formal.run

net: setup ## network namespaces as machines: sites, cuts, NAT, hostile peers (root; 6 minutes)
	@$(python) -m tests.netns.run $(if $(SAVE),--save) $(ARGS)

interop: setup ## js-libp2p and go-libp2p peers on a real network (2 minutes; the first time it fetches and builds)
	@$(python) -m tests.interop.run $(ARGS)

bench: setup ## us beside etcd and CometBFT, in turn (8 minutes; SHORT=1 a minute); scripts/bench_setup.sh installs them
	@$(python) -m bench.run $(if $(SHORT),--short) $(if $(SAVE),--save) $(ARGS)

wan: setup ## 16, 50 and 100 validators around the world, in a model of measured costs
	@$(python) -m bench.wan $(if $(SAVE),--save)

followers: setup ## what following costs: real followers beside validators, and 5,000 in a model
	@$(python) -m bench.followers $(if $(SAVE),--save)

contracts: setup ## what contracts cost: validate, expand, plan, judge (half a minute)
	@$(python) -m bench.contracts $(if $(SAVE),--save)

bench-files: setup ## artifacts: share of a bare stream, many nodes at once (root)
	@$(python) -m bench.files $(if $(SAVE),--save)

attacks: setup ## what must not work on a 3node, tried for real, as a table (root; 5 minutes)
	@$(python) -m tests.attacks.run $(if $(SAVE),--save) $(ARGS)

bench-exec: setup ## claim to running per runtime, files, slots of a node; SHORT=1 a minute
	@$(python) -m bench.exec $(if $(SHORT),--short) $(if $(SAVE),--save) $(ARGS)

docs: setup ## write the parts of docs/ that are made from the code
	@$(python) -m scripts.docs
	@$(python) scripts/cli_docs.py

lock: ## write the hashed locks from pyproject.toml (needs uv; UPGRADE=1 takes the newest versions)
	@scripts/lock.sh

clean: ## remove .venv and every cache
	rm -rf .venv .cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
