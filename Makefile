# make demo       environment, then a beacon by HMC, and the path of the picture
# make test       environment, then the fast tests
# make test-all   the slow ones too (exactness on the real posterior)
# make lint       ruff and mypy
# make bench      what a MALA and an HMC step cost in gradient evaluations
#
# PYTHON=... picks the interpreter that makes .venv; otherwise the first of
# python3, python3.13, python3.12, python3.11 that is 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More workers than four only compete for memory: each holds its own JAX.
PYTEST_ARGS ?= -n auto --maxprocesses 4

.DEFAULT_GOAL := demo
.PHONY: demo test test-all lint bench

demo: $(VENV)/.base
	$(BIN)/gradgen sample --class beacon --method hmc

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m ""

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.base
	$(BIN)/gradgen bench

$(VENV)/.python:
	@found=; \
	for candidate in "$(PYTHON)" python3.13 python3.12 python3.11; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	      >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "gradgen needs Python 3.11 or newer with the venv module; '$(PYTHON)' is" \
	    "$$("$(PYTHON)" --version 2>&1 || echo missing). Install one (Debian, Ubuntu:" \
	    "apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "environment: $(VENV) from $$found ($$("$$found" --version))"; \
	"$$found" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.python pyproject.toml
	@echo "installing gradgen and what it needs into $(VENV) (once; some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml
	@echo "installing gradgen and what it needs into $(VENV) (once; some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@ $(VENV)/.base

$(VENV)/.lint: $(VENV)/.python pyproject.toml
	@echo "installing gradgen and what it needs into $(VENV) (once; some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[lint]"
	@touch $@ $(VENV)/.base
