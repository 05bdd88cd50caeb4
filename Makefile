# What developers run. CI runs the same targets (.ci/run).
#
# Needs: make, and python3 (3.11 or newer) with its venv module. Everything else is installed
# into .venv, once, and again only when pyproject.toml changes.

PYTHON ?= python3
# Test processes at a time.
JOBS ?= 2
# Where `make run` keeps its data.
DATA ?= ./data

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test check bench e2e crash docs clean

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

run: $(VENV)/installed-run ## serve http://127.0.0.1:8000, data in ./data
	$(BIN)/seerdb serve $(DATA)

test: $(VENV)/installed-test ## the quick suite
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow and not e2e"

check: $(VENV)/installed-dev ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed-bench ## our numbers beside the peers'
	$(BIN)/python -m benchmarks run

e2e: $(VENV)/installed-test ## real processes against a real S3 server
	@infra/minio/install.sh || echo "no MinIO here: only moto's S3 server is tested against" >&2
	$(BIN)/python -m pytest -m e2e tests/e2e

crash: $(VENV)/installed-test ## a crash at every I/O operation, the long ones too
	$(BIN)/python -m pytest -n $(JOBS) -m crash

docs: $(VENV)/installed-run ## regenerate docs/configuration.md
	$(BIN)/python docs/generate.py

clean: ## remove what was built; .venv and data stay
	rm -rf build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "SeerDB needs Python 3.11 or newer as '$(PYTHON)'; or name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' does not work here. Install it (Debian, Ubuntu: apt install python3-venv)" >&2; \
	  exit 1; }
	@$(INSTALL) --upgrade pip  # older ones need minutes to find versions that fit

# A stamp says which extras are installed, for which pyproject.toml.
$(VENV)/installed-run: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/installed-run

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/installed-test $(VENV)/installed-run

$(VENV)/installed-bench: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable '.[bench]'
	@touch $@ $(VENV)/installed-run
