# `make reproduce` and `make test` are the main targets; each creates or updates .venv first.
BIN := .venv/bin
# A recipe reads these from its environment, because in its text the shell would interpret them.
override IMAGE := $(value IMAGE)
override NAME := $(value NAME)
override PRESET := $(value PRESET)
override SEEDS := $(value SEEDS)
override PYTHON := $(or $(value PYTHON),python3)
export IMAGE NAME PRESET SEEDS PYTHON
# DVC finds `python3` through PATH.
export PATH := $(CURDIR)/$(BIN):$(value PATH)
# DVC needs the user's name and home, which a user id in a container may lack.
ifndef USER
export USER := $(shell id -u)
endif
ifneq ($(shell [ -w "$$HOME" ] || echo missing),)
export HOME := $(CURDIR)/.venv
endif
# Packages are installed into .venv and imported from there, whatever is set for other projects.
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN PYTHONPATH PYTHONHOME
# For the locks; independent of the user's index settings.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

.PHONY: reproduce test demo predict preset backbones bench seeds plot verify help lint lock audit clean
.DEFAULT_GOAL := reproduce

reproduce: .venv/runtime ## run the pipeline and show the metrics; fails if accuracy is below the gate
	@$(BIN)/python -m stages check
	@$(BIN)/python -m dvc repro
	@$(BIN)/python -m dvc metrics show --precision 4

test: .venv/development ## run the fast tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

demo: .venv/runtime ## run the pipeline on generated images in about a minute, without downloading data
	@$(BIN)/python -m stages check
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT INT TERM && $(BIN)/python -m tests.drawn "$$folder/demo" \
		&& cd "$$folder/demo" && export MIRROR="$$folder/demo/mirror" && python3 -m dvc repro \
		&& python3 -m dvc metrics show --md && echo 'demo: finished. Its accuracy is meaningless: generated images,' \
		'random backbone.'

predict: .venv/runtime ## classify a photo, or the photos in a folder: make predict IMAGE=photo.jpg
	@$(BIN)/python predict.py -- $${IMAGE:+"$$IMAGE"}

preset: .venv/runtime ## run a preset of bench/presets.yaml: make preset PRESET=fastest; optional NAME=, of your images
	@$(BIN)/python -m bench.preset "$$PRESET" $${NAME:+"$$NAME"}
	@$(BIN)/python -m dvc metrics show --precision 4

backbones: .venv/runtime ## list the available backbones
	@$(BIN)/python -m stages.nets.applications

bench: .venv/runtime ## compare with the Keras guide's two workflows; optional NAME=, of your images
	@if [ "$$NAME" ]; then $(BIN)/python -m bench.photos "$$NAME"; else $(BIN)/python -m bench.compare; fi

seeds: .venv/runtime ## run a preset with several seeds: make seeds PRESET=fastest SEEDS=20
	@$(BIN)/python -m bench.seeds "$${PRESET:-default}" "$${SEEDS:-3}"

plot: .venv/development ## draw docs/frontier.svg from docs/experiments.csv
	@$(BIN)/python -m bench.plot

verify: .venv/runtime ## run the last commit twice with empty caches, compare every digest; optional PRESET=
	@$(BIN)/python -m bench.verify "$$PRESET"

help: ## print the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 12

lint: .venv/development ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

audit: .venv/development ## check the locked packages for known vulnerabilities; needs PyPI
	@$(BIN)/python -m pip_audit --strict --require-hashes --disable-pip --progress-spinner off \
		-r requirements.txt -r requirements-dev.txt

lock: .venv/development ## write the newest allowed versions, with hashes
	@$(LOCK) --upgrade pyproject.toml --output-file requirements.txt
	@$(LOCK) --upgrade --group cluster --constraints requirements.txt --output-file requirements-cluster.txt
	@$(LOCK) --upgrade --group dev --constraints requirements.txt --output-file requirements-dev.txt

clean: ## remove the environment; `dvc gc -w` cleans the cache
	@rm -rf .venv

# Scripts in .venv contain its absolute path, so it is recreated after the folder has been moved or copied.
MOVED := $(shell [ "$$(cat .venv/path 2>/dev/null)" = "$$(pwd -P)" ] || echo moved)
.PHONY: moved

# Stamp file: everything in its lock file is installed.
.venv/runtime: requirements.txt $(MOVED)
	@"$$PYTHON" -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"error: Python is {v[0]}.{v[1]}, expected 3.11 to 3.13: make PYTHON=python3.11")'
	@[ ! "$(MOVED)" ] && $(BIN)/python -m pip --version >/dev/null 2>&1 \
		|| { "$$PYTHON" -m venv --clear .venv && pwd -P >.venv/path; }
	@echo 'installing $< into .venv'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.venv/development: requirements-dev.txt .venv/runtime
	@echo 'installing $< into .venv'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
