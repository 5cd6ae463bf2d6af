# make demo   the whole road on this machine, set-up included
# make test   the test suite, set-up included
# make lint   ruff and mypy

# The torch requirement. CI sets torch==2.13.0 (a CPU build); a GPU machine wants the default.
TORCH ?= torch
export TORCH

BIN := .venv/bin

.PHONY: setup demo test lint

setup:
	@deploy/setup.sh

demo: setup
	$(BIN)/stillhouse demo

test: setup
	@deploy/sandbox_image.sh full
	@deploy/setup.sh browser
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
