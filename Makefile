# `make demo` and `make test` set themselves up: a .venv, pinned packages, the project editable.
# A second call installs nothing unless pyproject.toml or constraints.txt has changed.
BIN := .venv/bin

# The first supported Python that runs and can make an environment. Every folder of PATH is asked: a name found there may
# be a pyenv shim of a version that is not active, or a Python without the module venv.
SUPPORTED := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell IFS=:; for name in python3.11 python3.12 python3.13 python3; do for folder in $$PATH; do \
	"$$folder/$$name" -c '$(SUPPORTED)' 2>/dev/null && echo "$$folder/$$name" && exit; done; done)
# What the networks run on: tensorflow, gpu, jax or jax-gpu (with jax, set model.backend = "jax").
BACKEND ?= tensorflow
VERSION := import pip, sys; print(sys.version_info[:2])

.PHONY: demo test lint setup clean-demo

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@python="$(PYTHON)"; "$$python" -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "Python 3.11, 3.12 or 3.13 with venv and pip is needed and was not found (tried $${python:-every folder of PATH}):" \
			"install one (Debian: apt-get install python3-venv) or name one: make setup PYTHON=/usr/local/bin/python3.12" >&2; exit 1; }; \
	wanted=$$("$$python" -c 'import sys; print(sys.version_info[:2])'); \
	test "$$($(BIN)/python -c '$(VERSION)' 2>/dev/null)" = "$$wanted" || "$$python" -m venv --clear .venv
	PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --editable '.[$(BACKEND),test]'
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
