# Every target works from a fresh clone: the first one that needs Python makes .venv and installs into it.
# `make help` lists them. CONFIG=… names a configuration, SET="section.key=value …" changes settings of it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RAYCURRENT := $(BIN)/python -m jobs
CONFIG ?= jobs/configs/demo-translation.yaml
SETTINGS = $(foreach setting,$(SET),--set $(setting))
# Threads are given to workers one by one; a library that starts its own on top of that only gets in the way.
export OMP_NUM_THREADS ?= 1
export RAY_AUTH_MODE ?= token
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup demo prepare train pipeline check format test test-all chaos bench reproduce clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make .venv and install everything into it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup ## from nothing to two trained models, translations and scores, in a few minutes
	$(RAYCURRENT) demo $(SETTINGS)

prepare: setup ## corpora → Arrow dataset (CONFIG=…)
	$(RAYCURRENT) prepare $(CONFIG) $(SETTINGS)

train: setup ## dataset → checkpoints (CONFIG=…); again: goes on where it stopped
	$(RAYCURRENT) train $(CONFIG) $(SETTINGS)

pipeline: setup ## prepare → train → translate and score → evaluate → report (CONFIG=…)
	$(RAYCURRENT) pipeline $(CONFIG) $(SETTINGS)

check: setup ## ruff, mypy --strict, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture

test: setup ## every test but the slow tiers
	$(BIN)/python -m pytest -q -m 'not (ray or ddp or e2e or chaos or bench or gpu)'
	$(BIN)/python -m pytest -q -m '(ray or ddp or e2e) and not (chaos or bench or gpu)'

chaos: setup ## kill things and compare bytes (many minutes)
	$(BIN)/python -m pytest -q -m chaos

bench: setup ## the table of ratios against plain torch (half an hour)
	$(BIN)/python -m tests.benchmarks

reproduce: setup ## the figures of the README on the real corpora (hours; DATA=folder with them)
	$(BIN)/python -m tests.benchmarks.reproduce $(if $(DATA),--data $(DATA))

format: setup ## let ruff format and mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what was built and cached, not runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
