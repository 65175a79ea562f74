# vaekit: `make demo` trains on embedded data and does every job once; `make test` runs all checks.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# A busy neighbour can slow a spinning thread pool down twenty-fold; waiting threads should sleep.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install demo test lint unit docs bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/vaekit demo -o demo --force

test: lint unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

unit: install
	$(BIN)/python -m pytest -n 2

bench: install
	$(BIN)/python benchmarks/core/run.py startup

clean:
	rm -rf .venv build dist demo .pytest_cache .ruff_cache .hypothesis
