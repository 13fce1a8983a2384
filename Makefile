# Every target sets up what it needs: .venv with the project and its tools, at the pinned versions.
# PYTHON chooses the interpreter of a new .venv; ARGS goes to the command that a target runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
# A process per core, but not more than 4: each of them imports torch.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4
# For tests that take minutes: the fault handler must not end them as hung.
LONG := -o faulthandler_timeout=3600
PACKAGES := aio_sched streams buffers aio_sched_pytest.py
TYPED := $(PACKAGES) $(wildcard tests examples benchmarks tools)

.DEFAULT_GOAL := help
.PHONY: help demo test coverage faults explore check format bench ranks gpu clean

help:
	@echo "make demo      generate text through the overlap scheduler, then without overlap"
	@echo "make test      run the tests"
	@echo "make coverage  run the tests and require 90 % branch coverage"
	@echo "make faults    strike and cancel by seed: 200 faults a cell, every await point"
	@echo "make check     format, lint, types, import contracts"
	@echo "make format    apply the formatter and the safe fixes of the linter"
	@echo "make bench     wake latency of the bridge, then the loop against its rivals"
	@echo "make explore   run the shipped pipelines under ten thousand schedules, with the hazard checker"
	@echo "make ranks     ranks in real processes: kill one, stop one, ten thousand steps; then their lag"
	@echo "make gpu       tests, benchmarks, sanitizer and litmus that need an accelerator"
	@echo "make clean     remove what the targets made, .venv included"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; run make PYTHON=/path/to/a/newer/python" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# torch comes first and alone: it is the one large download, and its failure should be the first thing to see.
$(INSTALLED): pyproject.toml constraints.txt $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/aio-sched demo $(ARGS)

test: $(INSTALLED)
	$(PYTEST) $(ARGS)

coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report=term --cov-fail-under=90 $(ARGS)

faults: $(INSTALLED)
	$(PYTEST) $(LONG) tests/faults -m "slow or not slow" $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/aio-sched bench bridge $(ARGS)
	$(BIN)/aio-sched bench loop $(ARGS)

# Not all of -m soak: those that explore schedules in virtual time.
explore: $(INSTALLED)
	$(PYTEST) $(LONG) -m "slow or soak" tests/hazards tests/streams/hazards $(ARGS)

ranks: $(INSTALLED)
	$(BIN)/python -m pytest $(LONG) -m "slow or soak" tests/aio_sched/parallel $(ARGS)
	$(BIN)/python -m benchmarks.rank_groups

gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu $(ARGS)
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.sanitizer --out benchmarks/results/sanitizer.json
	$(BIN)/python -m benchmarks.litmus --device cuda --out benchmarks/results/litmus.json

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
