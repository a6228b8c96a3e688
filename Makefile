# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Tests start hundreds of processes; each would compile sapwood's own source anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test lint gpu proof compat crash bench dist docs clean

# pip compiles 26,000 modules one after the other; here all cores do, and some files are meant for older Pythons.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	--constraint constraints.txt --editable
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true

install: .venv/installed

# What the demo needs; tests, trackers, the page and the server need more.
.venv/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) .
	$(COMPILE)
	touch $@

.venv/installed: .venv/base
	$(PIP) '.[data,modelscope,bench,trackers,notebook,export,serve,ui,dev]'
	$(COMPILE)
	touch $@

demo: .venv/base
	$(BIN)/sapwood demo

# Three processes for two cores, since many tests wait: for a browser, a server, another process. Each test file
# runs in one of them, so that what it set up is set up once; the longest begin (`tests/balance.py`). The whole
# suite must cover the code; a part of it, as in make test TESTS=tests/test_cli.py, can't.
PYTEST := -m pytest -n $(or $(JOBS),3) --dist loadfile
test: install
ifdef TESTS
	$(BIN)/python $(PYTEST) $(TESTS)
else
	mkdir -p build
	$(BIN)/python -m slipcover --out build/coverage.json $(PYTEST)
	$(BIN)/python -m slipcover --merge build/coverage.json --out build/coverage.json --fail-under 90
endif

lint: install
	$(BIN)/python docs/sentences.py
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# The documentation as a site in build/site. A warning fails it: a link or a heading that isn't there, for example.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.venv/docs: .venv/base
	$(PIP) '.[docs]'
	$(COMPILE)
	touch $@

# Without a card: the CPU's half of these tests, pretended cards, and what is left for a card, by name.
gpu: install
	$(BIN)/python -m tests.machine.card

# In parts: make proof PART="qwen1_5 and hostile"; CASES=1000 for a tenth of it.
proof: install
	SAPWOOD_PROOF_CASES=$(or $(CASES),10000) $(BIN)/python -m pytest tests/template tests/data/test_damage.py \
		--timeout 7200 -n $(or $(JOBS),2) --dist worksteal $(if $(PART),-k "$(PART)")

# What sapwood writes, opened by transformers 4.57 and PEFT 0.12 and 0.13: an environment of their own, made once.
compat: install
	$(BIN)/python -m tests.compat.old
	$(BIN)/python -m pytest tests/compat -rs

crash: install
	$(BIN)/python -m tests.crash.soak --kills $(or $(KILLS),1000) --real $(or $(REAL),20)
	SAPWOOD_CRASH_ALL=1 $(BIN)/python -m pytest tests/crash/test_operations.py tests/crash/test_processes.py \
		tests/crash/test_retention.py tests/crash/test_numerics.py --timeout 3600

bench: install
	$(BIN)/python bench/against_peers.py --short
	$(BIN)/python bench/plot.py
	$(BIN)/python bench/limit.py --rows 48
	$(BIN)/python bench/prefix.py --short --rows 16
	$(BIN)/python bench/scale.py --lengths 1024,2048,4096 --rows 32
	$(BIN)/python bench/loss_parity.py --rows 64
	$(BIN)/python bench/int8.py --rows 80

# What a release would be: built, installed into an environment of its own, and used there for two steps.
dist: install
	rm -rf dist build
	$(BIN)/uv build
	tar -tzf dist/*.tar.gz | grep -q /tests/conftest.py
	$(BIN)/uv venv --seed --python $(BIN)/python build/alone
	$(BIN)/uv pip install --python build/alone/bin/python --constraint constraints.txt dist/*.whl
	cd build && test "$$(alone/bin/sapwood --version | tr ' ' -)" = "$$(basename ../dist/*.whl | cut -d - -f 1,2)"
	cd build && alone/bin/sapwood demo --steps 2
	grep -q "^## $$(build/alone/bin/sapwood --version | cut -d ' ' -f 2) " CHANGELOG.md

clean:
	rm -rf .venv build dist runs
