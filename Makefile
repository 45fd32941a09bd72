# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := hub,postgres,dask,online,gaia,blind,dev

.PHONY: setup demo test test-quick lint clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: setup
	$(BIN)/starloom demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-quick: lint
	$(BIN)/pytest -m 'not slow'

# Quick tests run first, slow ones last (tests/conftest.py orders them).
test: lint
	$(BIN)/pytest

clean:
	rm -rf .venv .demo .pytest_cache .mypy_cache .ruff_cache
