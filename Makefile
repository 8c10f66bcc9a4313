# make install   .venv with everything for demo, tests and bench (CPU; install-gpu for CUDA)
# make demo      the whole story on the starter pack, in minutes, on a laptop
# make test      unit, contract, integration and e2e tests on real parts
# make check     ruff, mypy, import-linter

SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
UV := .venv/bin/uv
UV_VERSION := 0.13.9
TORCH_CPU := torch==2.13.0+cpu
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_LINK_MODE ?= copy
export UV_COMPILE_BYTECODE ?= 1
export BENTOML_DO_NOT_TRACK := True
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install install-gpu demo test unit check starter lock clean

install: .venv/.cpu
install-gpu: .venv/.gpu

.venv/bin/uv:
	@$(PYTHON) deploy/preflight.py
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# torch's CPU build has a local version: a plain pin finds it where a wheel lies at hand, else it comes from PyTorch's CPU index.
.venv/.cpu: deploy/lock/cpu.txt pyproject.toml | .venv/bin/uv
	$(UV) pip install --quiet --python $(PY) --no-deps '$(TORCH_CPU)' 2>/dev/null \
	  || $(UV) pip install --python $(PY) --no-deps --torch-backend cpu torch==2.13.0
	$(UV) pip install --quiet --python $(PY) --no-deps -r deploy/lock/cpu.txt
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.gpu: deploy/lock/gpu.txt pyproject.toml | .venv/bin/uv
	$(UV) pip install --python $(PY) --no-deps -r deploy/lock/gpu.txt
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@ .venv/.cpu

demo: install
	.venv/bin/shoal demo

test: install
	$(PY) -m pytest

unit: install
	$(PY) -m pytest tests/unit

check: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

# Trains the base and the experts anew (32 minutes on two cores that other work shared) and writes the record and the model card.
starter: install
	$(PY) -m starter.build

lock: .venv/bin/uv
	deploy/lock/make.sh

clean:
	rm -rf .venv .cache build dist
