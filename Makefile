# `make demo` shows the main job on a fresh machine, `make test` runs every check; both set up what they need.

PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
FUZZ_SECONDS ?= 60
DEMO ?= build/demo
DEMO_SHAPE ?= relu-llama-7b
DEMO_BUDGET ?= 10GiB

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development
MODEL = $(DEMO)/$(DEMO_SHAPE)/$(DEMO_SHAPE).powerinfer.gguf

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest fuzz lint clean

help:
	@echo 'make demo   write a model folder, plan it, export its GPU index, verify and show it'
	@echo 'make test   lint, type-check and run the test suite'
	@echo 'make test-oldest  run the test suite with the oldest versions that pyproject.toml allows'
	@echo 'make fuzz   fuzz every reader of files, FUZZ_SECONDS each'
	@echo 'make lint   lint and type-check only'
	@echo 'make clean  remove the virtual environment and everything built'

$(RUNTIME): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(DEVELOPMENT): $(RUNTIME)
	$(PIP) --editable '.[dev,plot,profile]'
	@touch $@

demo: $(RUNTIME)
	$(BIN)/hotsplit demo $(DEMO)/$(DEMO_SHAPE) --shape $(DEMO_SHAPE) --force
	$(BIN)/hotsplit export --model $(MODEL) --vram-budget $(DEMO_BUDGET) --force
	$(BIN)/hotsplit verify $(MODEL).generated.gpuidx --model $(MODEL) --activations $(DEMO)/$(DEMO_SHAPE)/activation
	$(BIN)/hotsplit inspect $(MODEL).generated.gpuidx

lint: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -W error -m pytest

test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt \
		--editable '.[bench,plot,profile]' 'hypothesis>=6.168' 'pytest>=9.2'
	$(OLDEST)/bin/python -m pytest

fuzz: $(DEVELOPMENT)
	$(PIP) --editable '.[fuzz]'
	$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
