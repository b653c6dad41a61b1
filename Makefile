# `make demo` shows the main job on a fresh machine, `make test` runs every check; both set up what they need.

PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
NEWEST ?= .venv-newest
EXTRAS ?= dev,plot,profile
FUZZ_SECONDS ?= 60
DEMO ?= build/demo
DEMO_SHAPE ?= relu-llama-7b
DEMO_BUDGET ?= 10GiB

BIN := $(VENV)/bin
INSTALL := -m pip install --disable-pip-version-check --progress-bar off
PIP := $(BIN)/python $(INSTALL) --constraint constraints.txt
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development
MODEL = $(DEMO)/$(DEMO_SHAPE)/$(DEMO_SHAPE).powerinfer.gguf

PLAN = $(DEMO)/$(DEMO_SHAPE)/plan.json

.DEFAULT_GOAL := help
# What the tests need and the oldest versions do not name.
TESTING := 'axe-core-python>=0.1,<0.2' 'hypothesis>=6.168' 'jsonschema>=4.26,<5' 'pytest>=9.2' 'pytest-timeout>=2.4' \
	'pytest-xdist>=3.8' 'selenium>=4.40,<5'

# The modules of the tests are shared out whole to one process per core, because what a module shares (a browser, a model
# folder) is made once for each process that needs it. tests/conftest.py puts the longest first. A process holds half a
# GiB, hence the limit. One that dies is not replaced: its successor would only run the same test again, and hang again.
# `make test WORKERS=` runs all tests in one process.
WORKERS ?= --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
	--max-worker-restart 0

.PHONY: help demo test test-oldest test-newest fuzz lint clean

help:
	@echo 'make demo   write a model folder, plan it, export its GPU index, verify it, and write a page'
	@echo 'make test   lint, type-check and run the test suite'
	@echo 'make test-oldest  run the test suite with the oldest versions that pyproject.toml allows'
	@echo 'make test-newest  the same with the newest versions, but torch, which is pinned'
	@echo 'make fuzz   fuzz every reader of files, FUZZ_SECONDS each'
	@echo 'make lint   lint and type-check only'
	@echo 'make clean  remove the virtual environment and everything built'

$(RUNTIME): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing Hotsplit and the libraries it needs into $(VENV). The largest is torch: minutes and up to 5.5 GB'
	@echo 'where pip picks its CUDA build (README.md, "Two commands").'
	$(PIP) --editable .
	@touch $@

$(DEVELOPMENT): $(RUNTIME)
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(RUNTIME)
	$(BIN)/hotsplit demo $(DEMO)/$(DEMO_SHAPE) --shape $(DEMO_SHAPE) --force
	$(BIN)/hotsplit plan --model $(MODEL) --vram-budget $(DEMO_BUDGET) --output $(PLAN) --force
	$(BIN)/hotsplit export --plan $(PLAN) --force
	$(BIN)/hotsplit verify $(MODEL).generated.gpuidx --model $(MODEL) --plan $(PLAN) \
		--activations $(DEMO)/$(DEMO_SHAPE)/activation
	$(BIN)/hotsplit whatif configs/pick-a-gpu-for-70b.yaml --html $(DEMO)/report.html --force
	@echo
	@echo 'That was the plan, and its index lies beside the model. The page is $(DEMO)/report.html. Type next:'
	@echo '  . $(BIN)/activate'
	@echo '  hotsplit plan --model $(MODEL) --vram-budget 8GiB'
	@echo '  hotsplit whatif configs/pick-a-gpu-for-70b.yaml'
	@echo '  hotsplit --help'

lint: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -W error -m pytest $(WORKERS)

test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(INSTALL) --constraint constraints-oldest.txt \
		--editable '.[bench,plot,profile]' $(TESTING)
	$(OLDEST)/bin/python -m pytest $(WORKERS)

# torch stays at the version of constraints.txt, see there.
test-newest:
	$(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt > $(NEWEST)/torch.txt
	$(NEWEST)/bin/python $(INSTALL) --upgrade --constraint $(NEWEST)/torch.txt --editable '.[dev,bench,plot,profile]'
	$(NEWEST)/bin/python -W error -m pytest $(WORKERS)

fuzz: $(DEVELOPMENT)
	$(PIP) --editable '.[fuzz]'
	$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
