# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: install demo test lint proof bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,bench,dev]'
	touch $@

demo: install
	$(BIN)/sapwood demo

test: install
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=90 $(TESTS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

proof: install
	SAPWOOD_PROOF_CASES=10000 $(BIN)/python -m pytest tests/template --timeout 3600

bench: install
	$(BIN)/python bench/against_peers.py --short

clean:
	rm -rf .venv build dist runs
