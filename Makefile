# Everything needs only make and Python >= 3.11; each target makes or refreshes .venv first where it has to.
#   make demo [DIR=demo]   the whole chain on the sample that ships
#   make test              lint, types, tests
#   make test-slow         real servers, kill and fault suites
# PYTHON=… picks the interpreter of a new .venv; PYTEST_ARGS=… goes to pytest (-n0: one process, to look for what fails).

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
DIR ?= demo
PYTEST_ARGS ?=
# A file's tests stay in one process, in their order; the slow suites measure, and have the machine to themselves.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile
LOCK := requirements/lock.txt
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.DELETE_ON_ERROR:
.PHONY: setup demo test test-slow servers lint types bench lock clean

setup: $(VENV)/.package.stamp
	@:

$(BIN)/python:
	scripts/make_venv.sh $(VENV)

# The stamps remember what was installed: a second call does nothing until the lock or pyproject.toml changes.
$(VENV)/.lock.stamp: $(LOCK) | $(BIN)/python
	@echo "Installing $$(grep -c == $(LOCK)) packages from $(LOCK) (a few minutes the first time) …"
	$(BIN)/python -m pip install --disable-pip-version-check -qq -r $(LOCK)
	@touch $@

$(VENV)/.package.stamp: pyproject.toml $(VENV)/.lock.stamp
	$(BIN)/python -m pip install --disable-pip-version-check -qq --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(BIN)/eocube demo $(DIR)

test: setup lint types
	$(BIN)/pytest -m "not slow" $(SIDE_BY_SIDE) $(if $(NOTEBOOKS),--nbmake) tests eocube $(NOTEBOOKS) $(PYTEST_ARGS)

test-slow: setup servers
	$(BIN)/pytest -m slow tests $(PYTEST_ARGS)

servers:
	scripts/check_servers.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	@failed=0; for file in $(BENCHMARKS); do \
	  echo "$$file" >&2; $(BIN)/python "$$file" || { echo "$$file failed" >&2; failed=1; }; done; exit $$failed

lock: $(BIN)/python
	$(BIN)/python scripts/lock.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
