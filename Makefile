# `make` alone lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -H -E env PYTHONDONTWRITEBYTECODE=1)
export PATH := $(CURDIR)/$(BIN):$(PATH)

PYTHON_SOURCES := src bench scripts library module_utils roles tests molecule
SHELL_SOURCES := .ci/run bench/run scripts/bootstrap scripts/demo scripts/lock

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: bootstrap
bootstrap: ## Make .venv with all tools, at their locked versions
	@scripts/bootstrap

.PHONY: demo demo-down
demo: ## From nothing to a model's answer: a lab host, the site on it, a question to its API
	@scripts/demo up
demo-down: ## Remove all that the demo made, but its caches
	@scripts/demo down

.PHONY: check lint types unit
check: bootstrap ## Everything that needs no root: linters, types, unit tests
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=line lint types unit
lint: bootstrap ## Linters alone
	ruff check .
	ruff format --check .
	yamllint --strict .
	shellcheck $(SHELL_SOURCES)
	ansible-lint
types: bootstrap
	mypy $(PYTHON_SOURCES)
unit: bootstrap
	pytest -m "not lab" -n auto --dist loadfile

.PHONY: test
test: check ## All that CI runs: check, tests on lab hosts, molecule (root's, by sudo)
	scripts/bootstrap lab
	$(AS_ROOT) env PATH="$$PATH" pytest -m lab
	$(AS_ROOT) env PATH="$$PATH" MOLECULE_COMMAND_BORDERS=0 molecule test --all

.PHONY: prove bench chaos residency
prove: bench chaos residency ## Chaos and benchmarks, run by hand
bench: bootstrap ## The gateway beside its peers (OPTIONS=--quick for a look): docs/benchmarks.md
	bench/run $(OPTIONS)
chaos: ## What clients see while things are taken away from a lab host (root's, by sudo): docs/chaos.md
	@scripts/bootstrap lab
	@$(AS_ROOT) $(CURDIR)/$(BIN)/python -m bench.chaos $(OPTIONS)

residency: bootstrap ## Models that take turns, in simulated time: docs/models-on-demand.md
	python -m bench.residency $(OPTIONS)

.PHONY: lab-up lab-down lab-status
lab-up: ## Make and start the lab's hosts (inventories/lab)
	@scripts/bootstrap lab
	@$(AS_ROOT) $(BIN)/ansible-playbook playbooks/lab.yml -e lab_host_state=up
lab-down: bootstrap ## Remove the lab's hosts
	@$(AS_ROOT) $(BIN)/ansible-playbook playbooks/lab.yml -e lab_host_state=down
lab-status: bootstrap ## Show the lab's hosts
	@$(AS_ROOT) $(BIN)/ansible-playbook playbooks/lab.yml -e lab_host_state=status

.PHONY: clean
clean: ## Remove the demo, its caches, .venv and .cache
	@scripts/demo purge
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache
