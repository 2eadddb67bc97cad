# `make survey` is the main job, from a bare clone; `make test` runs the tests. Both make .venv first, once.
# Needed: Python 3.11 or newer, and make (GNU 3.81 or newer). Choose a Python by PYTHON=/path/to/python3.

SHELL = /bin/sh
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: help survey test slow lint lint-format lint-code lint-types lint-layers format build docs docs-serve clean distclean

# The first Python that is new enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV = .venv
BIN = $(VENV)/bin
# Stamps lie in the environment, so they go with it.
STAMP = $(VENV)/stamp
# More words for the command: make survey ARGS="digits --preset full", make test ARGS=tests/cli
ARGS =

help:
	@echo 'make survey   set up and survey the iris data; ARGS="digits --preset full" for another'
	@echo 'make test     set up and run the tests; ARGS=tests/cli for some'
	@echo 'make slow     the longer checks'
	@echo 'make lint     format, lint, types, layers, as in CI'
	@echo 'make format   let ruff format and mend what it can'
	@echo 'make build    wheel and sdist, checked'
	@echo 'make docs     the site of the documentation, in site/; docs-serve shows it while you write'
	@echo 'make clean    remove what tests and builds leave; distclean: .venv too. Runs in ./lossatlas stay.'

survey: $(STAMP)-base
	@$(BIN)/lossatlas survey $(ARGS)

test: $(STAMP)-test
	@$(BIN)/python -m pytest -n 2 $(ARGS)

slow: $(STAMP)-test
	@$(BIN)/python -m pytest -n 2 -m slow $(ARGS)

# Separate, so that `make --keep-going lint` tells of all of them.
lint: lint-format lint-code lint-types lint-layers

lint-format: $(STAMP)-dev
	$(BIN)/ruff format --check .

lint-code: $(STAMP)-dev
	$(BIN)/ruff check .

lint-types: $(STAMP)-test $(STAMP)-dev
	$(BIN)/basedpyright

lint-layers: $(STAMP)-dev
	$(BIN)/lint-imports

format: $(STAMP)-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(STAMP)-dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

docs: $(STAMP)-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "docs: site/index.html"

docs-serve: $(STAMP)-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

clean:
	rm -rf dist build site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(wildcard src tests benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "LossAtlas needs Python 3.11 or newer; none was found (python3 is $$(python3 -V 2>&1))."; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "LossAtlas needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: its venv module is missing."; \
	  echo "On Debian and Ubuntu: sudo apt install python3-venv    (then run make again)"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) -V) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# constraints.txt is the set that CI tests, on Python 3.11. Where a newer Python has no such packages, the newest are taken.
install = echo "Installing $(1) into $(VENV) (the first time this takes a few minutes) ..."; \
	pip="$(BIN)/python -m pip install --disable-pip-version-check $(if $(CI),--quiet)"; \
	$$pip -c constraints.txt -e '$(1)' || { \
	  $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' \
	  && echo "The tested set does not fit $$($(BIN)/python -V); trying the newest packages." && $$pip -e '$(1)'; }

$(STAMP)-base: pyproject.toml constraints.txt | $(BIN)/python
	@$(call install,.)
	@touch $@

$(STAMP)-test: pyproject.toml constraints.txt | $(BIN)/python
	@$(call install,.[test])
	@touch $@ $(STAMP)-base

$(STAMP)-docs: pyproject.toml constraints.txt | $(BIN)/python
	@$(call install,.[docs])
	@touch $@

$(STAMP)-dev: pyproject.toml constraints.txt | $(BIN)/python
	@$(call install,.[dev])
	@touch $@
