# fastpersist: `make demo` and `make test` do all the set-up they need.
PYTHON ?= python3
VENV ?= .venv
CANDLES ?=
STRATEGY ?= examples/ema_cross.py
ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard src/fastpersist/hot/*.pyx)
WORKERS ?= 2
RESULTS := .benchmarks
SANITIZED := build/sanitized
HOT_TESTS := $(wildcard $(foreach kind,unit property,$(foreach family,bson codec columns id_cache keys,tests/$(kind)/test_$(family).py)))
BENCH_ARGS ?=
FUZZ_SECONDS ?= 60
PYTHONS ?=
OLDEST_PYTHON ?= python3.10
OLDEST := build/oldest
comma := ,

.PHONY: demo test lint types workflows bench gates sanitize fuzz leaks races docs wheels oldest clean up down

demo: $(VENV)/.demo
	$(BIN)/python tools/demo.py --strategy $(STRATEGY) $(ARGS) $(if $(CANDLES),--candles $(CANDLES))

test: $(VENV)/.dev
	FASTPERSIST_PURE=1 $(BIN)/python -m pytest -q -n $(WORKERS) tests/unit tests/contract $(PYTEST_ARGS)
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/make_sync.py --check
	$(BIN)/python tools/make_tables.py --check

types: $(VENV)/.dev
	$(BIN)/mypy

# Offline: nothing is asked about the actions that are used.
workflows: $(VENV)/.dev
	@if [ -x $(BIN)/zizmor ]; then $(BIN)/zizmor --offline --persona auditor --quiet .github; \
	else echo "zizmor: needs Python 3.11, left out"; fi
	@if [ -x $(BIN)/actionlint ]; then $(BIN)/actionlint && echo "actionlint: clean"; \
	else echo "actionlint: no binary for this machine, left out"; fi

# The sdist and, from it, a wheel for each CPython of PYTHONS (else of PATH), tried as installed.
wheels: $(VENV)/.dev
	$(BIN)/python tools/wheels.py --output dist $(PYTHONS)

# The tests on the oldest versions that pyproject.toml allows.
oldest: $(VENV)/.dev
	rm -rf $(OLDEST)
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(BIN)/python tools/lower_bounds.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/constraints.txt \
	  '.[cli$(comma)local$(comma)numpy$(comma)polars$(comma)pandas$(comma)arrow$(comma)report$(comma)ccxt]' \
	  hypothesis pytest pytest-asyncio pytest-timeout pytest-xdist PyYAML ruff structlog
	FASTPERSIST_REDIS_SERVER="$${FASTPERSIST_REDIS_SERVER:-$$($(BIN)/python -c 'from fastpersist.local.binaries import find_redis_server as find; print(find())')}" \
	  $(OLDEST)/bin/python -m pytest -q -n $(WORKERS) -p no:cacheprovider tests/unit tests/contract $(PYTEST_ARGS)

bench: $(VENV)/.dev
	mkdir -p $(RESULTS)
	set -e; for pass in 1 2 3; do \
	  $(BIN)/python -m pytest benchmarks/test_hot.py --benchmark-columns=median,iqr,rounds \
	    --benchmark-sort=fullname --benchmark-max-time=0.3 \
	    --benchmark-json=$(RESULTS)/hot-$$pass.json -o addopts= -p no:xdist; \
	done
	$(BIN)/python benchmarks/run.py --json $(RESULTS)/stores.json $(BENCH_ARGS)
	$(BIN)/python benchmarks/gates.py $(RESULTS)/hot-1.json $(RESULTS)/hot-2.json $(RESULTS)/hot-3.json $(RESULTS)/stores.json

# The same with fewer rounds. What falls is measured once more: a regression falls twice, while
# another process on the machine does so hardly ever.
gates:
	$(MAKE) bench BENCH_ARGS=--short || $(MAKE) bench BENCH_ARGS=--short

# The compiled modules under AddressSanitizer and UndefinedBehaviorSanitizer, in a tree of their own.
sanitize: $(VENV)/.dev
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -r src/fastpersist $(SANITIZED)/
	rm -f $(SANITIZED)/fastpersist/hot/*.so
	FASTPERSIST_SANITIZE=1 $(BIN)/python setup.py -q build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)-temp
	PYTHONPATH=$(SANITIZED) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  sh -c '$(BIN)/python -c "import fastpersist as f; assert \"$(SANITIZED)\" in f.__file__ and f.has_extensions()" && \
	  $(BIN)/python -m pytest -q -p no:cacheprovider $(HOT_TESTS)'

# Coverage-guided: the twins lead, the compiled modules have to agree.
fuzz: $(VENV)/.dev
	mkdir -p build/fuzz
	set -e; for target in decode encode columns keys; do \
	  $(BIN)/python tests/fuzz/fuzz.py $$target -max_total_time=$(FUZZ_SECONDS) -max_len=600 \
	    -verbosity=0 -print_final_stats=1 -artifact_prefix=build/fuzz/; \
	done

# A fresh process for each case, whose memory may not grow.
leaks: $(VENV)/.dev
	$(BIN)/python tests/leaks/leaks.py

# Threads on the shared modules; a part of the tests.
races: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/races

# The site, in build/site: offline, and any warning fails (with --quiet none would be seen). Its blocks of code are run by the tests.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict
	$(BIN)/python tools/check_site.py build/site

up: $(VENV)/.demo
	$(BIN)/fastpersist up

down: $(VENV)/.demo
	$(BIN)/fastpersist down

clean:
	rm -rf $(VENV) build dist .cache src/*.egg-info
	find src -name '*.so' -delete

# A virtual environment with pip; what is missing is named with the command that installs it.
$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "fastpersist: Python 3.10 or newer is missing. Install it, for example:"; \
	  echo "  apt-get install python3 python3-venv python3-dev gcc"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "fastpersist: $$($(PYTHON) --version) is too old, 3.10 or newer is needed."; \
	  echo "  choose another one: make PYTHON=python3.12 ..."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "fastpersist: this Python has no venv module. Install it, for example:"; \
	  echo "  apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)

define install
	@if [ -z "$$FASTPERSIST_NO_EXTENSIONS" ] && ! $(BIN)/python tools/has_compiler.py; then \
	  echo "=================================================================="; \
	  echo "fastpersist: no C compiler or no Python headers were found."; \
	  echo "Going on WITHOUT the compiled modules: correct, but slower."; \
	  echo "For the compiled ones: apt-get install gcc python3-dev; make clean"; \
	  echo "=================================================================="; \
	  export FASTPERSIST_NO_EXTENSIONS=1; \
	fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(1)]'
	@touch $@
endef

$(VENV)/.demo: $(SOURCES) | $(VENV)/bin/pip
	$(call install,cli$(comma)local)

$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/pip
	$(call install,dev$(comma)local)
	@touch $(VENV)/.demo
