# Every target sets up .venv when it is missing and reuses it until pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := setup
.PHONY: setup demo test slow check mutations faults schema docs

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: setup
	$(BIN)/metabench search search_spaces/demo.yaml --out runs --name demo

# A file of tests stays in one process; there are as many processes as cores, up to four.
TEST := -m pytest -n auto --maxprocesses 4 --dist loadfile

test: setup
	$(BIN)/python $(TEST)

slow: setup
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python $(TEST)

# Bugs planted one at a time in a copy of the package: some test must fail for each. Takes some minutes.
mutations: setup
	$(BIN)/python -m tests.support.mutations

# Two hundred faults done to real searches, and what must hold of them afterwards: an hour or two.
faults: setup
	$(BIN)/python -m benchmarks.faults

# What editors complete search spaces with; to be made again whenever a setting changes.
schema: setup
	$(BIN)/python -c 'import json; from metabench.search import space; print(json.dumps(space.schema(), indent=1))' \
		> search_spaces/schema.json

# The site, without any warning, into build/docs.
docs: setup
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
