# `make demo` and `make test` set themselves up: a .venv, pinned packages, the project editable.
# A second call installs nothing unless pyproject.toml or constraints.txt has changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test lint setup clean-demo

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: setup
	$(BIN)/dr synthesise workspaces/demo-photos --count 400 --seed 7 --balanced --largest-px 1000
	$(BIN)/dr run deployments/demo.toml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

test: lint
	$(BIN)/python -m pytest

clean-demo:
	rm -rf workspaces/demo workspaces/demo-photos
