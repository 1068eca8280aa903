PYTHON ?= python3
VENV   ?= .venv
TASKS  ?= examples/project-label.json
GPU    ?= all
RUN    ?=
SECONDS ?= 600
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CLI    := $(BIN)/inpaint-eacps
COMPOSE ?= docker compose --profile cpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev demo test lint format typecheck docs up down logs submit status wait flower worker orchestrator doctor bench soak report clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; call make with PYTHON=python3.11, for instance.")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt -e '.[cpu,gemini]'
	@touch $@

# torch comes first and alone: an extra that asks for it would choose the newest build, which brings gigabytes of CUDA.
# Beside a build of torch that is not PyPI's, PyPI's torchvision has no operators, and whatever finds it fails over it.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) '$(TORCH)'
	$(PIP) -c constraints.txt -e '.[cpu,gemini,gemini-legacy,qwen,flower,metrics,s3,calibrate,dev]'
	@$(BIN)/python -c 'import torchvision' 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torchvision
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## Make .venv with what the demo needs
install-dev: $(VENV)/.installed-dev ## Make .venv with what tests and checks need

demo: install ## Inpaint the examples on this machine: no GPU, no key, no server
	$(CLI) run --tasks $(TASKS)

test: install-dev ## Run all tests, and show the coverage
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

lint: install-dev ## Check style, the architecture's contracts, and that generated pages are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(CLI) config docs --check

format: install-dev ## Format the code and write the generated pages
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(CLI) config docs

typecheck: install-dev ## Check types, strictly, tests included
	$(BIN)/mypy

docs: install ## Write docs/configuration.md and configs/default.yaml from the settings
	$(CLI) config docs

# Containers read them as another user, so they are readable; the folder lets nobody of this machine in.
secrets/broker_password:
	@mkdir -p -m 700 secrets
	@$(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(32))' > $@

secrets/flower_basic_auth:
	@mkdir -p -m 700 secrets
	@$(PYTHON) -c 'import secrets; print("flower:" + secrets.token_urlsafe(16))' > $@

up: secrets/broker_password secrets/flower_basic_auth ## Start the cluster in containers (COMPOSE='docker compose --profile gpu' for GPUs)
	$(COMPOSE) up --detach --build

down: ## Stop the containers; what they stored stays
	$(COMPOSE) down

logs: ## Follow the containers' logs
	$(COMPOSE) logs --follow

submit: install ## Hand all tasks of TASKS=export.json to the cluster
	$(CLI) submit --tasks $(TASKS) --all

status: install ## Watch the run RUN=id
	@test -n "$(RUN)" || { echo "Say which run: make status RUN=…" >&2; exit 2; }
	$(CLI) status $(RUN) --watch

wait: install ## Wait for the run RUN=id
	@test -n "$(RUN)" || { echo "Say which run: make wait RUN=…" >&2; exit 2; }
	$(CLI) wait $(RUN)

flower: install ## Serve Flower on port 5555
	$(PIP) -c constraints.txt -e '.[flower]'
	$(CLI) flower

worker: install ## Join the cluster with GPU=all, GPU=cuda:0 or GPU=cpu
	$(CLI) worker --device $(GPU)

orchestrator: install ## Run an orchestrator
	$(CLI) orchestrator

doctor: install ## Check this machine
	$(CLI) doctor

bench: install-dev ## Measure every figure that the README quotes (over an hour; benchmarks/gpu_generation.py needs a GPU)
	$(PIP) -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.overhead --devices 4 --tasks 50 --seconds 0.05 0.2
	$(BIN)/python -m benchmarks.overhead --devices 8 --tasks 100 --seconds 0.2 1 5 --judge 0.5 --systems ours chord ray
	$(BIN)/python -m benchmarks.scale --tasks 100 1000 10000
	$(BIN)/python -m benchmarks.recovery --kills 20
	$(BIN)/python -m benchmarks.judge_load

soak: install-dev ## Break things at random for SECONDS=600, and check that nothing is lost
	$(BIN)/python -m benchmarks.soak --seconds $(SECONDS)

report: install ## Write report.html again from what is on disk
	$(CLI) report

clean: ## Remove caches and build products; results and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
