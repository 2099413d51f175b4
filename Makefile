# Every target sets up .venv when it is missing and reuses it until pyproject.toml or constraints.txt change:
# setup and demo with what running needs, all others with what tests and documents need, too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
TESTS := $(VENV)/.tests
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.DEFAULT_GOAL := setup
.PHONY: setup demo test slow check mutations faults schema docs

setup: $(RUNS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUNS): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	touch $@

$(TESTS): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[test]'
	touch $(RUNS) $@

demo: setup
	$(BIN)/metabench search search_spaces/demo.yaml --out runs --name demo

# A file of tests stays in one process; there are as many processes as cores, up to four. Files keep their order:
# by their number of tests, those of few long tests would come last, and end alone.
TEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(TESTS)
	$(BIN)/python $(TEST)

slow: $(TESTS)
	$(BIN)/python -m pytest -m slow

check: $(TESTS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python $(TEST)

# Bugs planted one at a time in a copy of the package: some test must fail for each. Takes some minutes.
mutations: $(TESTS)
	$(BIN)/python -m tests.support.mutations

# Two hundred faults done to real searches, and what must hold of them afterwards: an hour or two.
faults: $(TESTS)
	$(BIN)/python -m benchmarks.faults

# What editors complete search spaces with; to be made again whenever a setting changes.
schema: $(TESTS)
	$(BIN)/python -c 'import json; from metabench.search import space; print(json.dumps(space.schema(), indent=1))' \
		> search_spaces/schema.json

# The site, without any warning, into build/docs, with the reports of the searches that are kept.
docs: $(TESTS)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
	$(BIN)/python benchmarks/cloudera.py --cells --reports build/docs/cloudera
