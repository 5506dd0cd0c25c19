# Everything a developer runs; behind each target stands a plain command.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
AIRFLOW ?= 3.3.2
OLDEST_AIRFLOW := 3.2.0
VENV ?= .venv
CONSTRAINTS := constraints/airflow-$(AIRFLOW)-py3.11.txt
BIN := $(VENV)/bin
# More processes than cores, since tests wait for servers; a file's tests stay together, and files keep their order.
SHARED := -n 5 --dist loadfile --no-loadscope-reorder
DEPENDENCY_GROUPS ?= test lint docs
# Bytecode makes every start of Airflow twice as fast.
unexport PYTHONDONTWRITEBYTECODE
# The machine's own certificates, as pip does; the name of the setting changed between versions of uv.
export UV_SYSTEM_CERTS := 1
export UV_NATIVE_TLS := 1

.PHONY: setup demo test e2e e2e-celery chaos test-oldest coverage lint docs bench screenshots constraints postgres redis \
	chromium clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c $(CONSTRAINTS) \
		-e '.[all]' $(addprefix --group ,$(DEPENDENCY_GROUPS))
	touch $@

demo: setup
	$(BIN)/python -m airflow_raif.demo $(ARGS)

test: setup postgres chromium
	$(BIN)/python -m pytest $(SHARED) -m "not slow" $(ARGS)

# Real Airflow, its processes killed, frozen and restarted, every case.
e2e: setup postgres redis
	$(BIN)/python -m pytest tests/e2e $(ARGS)

# Of these only two Celery workers on Redis and PostgreSQL that share no disk, spool and results on an S3 server.
e2e-celery: setup postgres redis
	$(BIN)/python -m pytest tests/e2e/test_celery.py $(ARGS)

# A death at every step, and thousands of batch lives under random faults; prints what came of each fault.
chaos: setup postgres
	$(BIN)/python -m pytest tests/chaos
	$(BIN)/python -m tests.chaos --every-step --lives 5000 $(ARGS)

# The tests that meet Airflow and the SDKs, on the oldest Airflow supported and the SDKs' generation before.
test-oldest:
	$(MAKE) setup AIRFLOW=$(OLDEST_AIRFLOW) VENV=.venv-oldest DEPENDENCY_GROUPS="test lint"
	.venv-oldest/bin/python -m pytest $(SHARED) tests/integration tests/unit/airflow tests/contract/emulator $(ARGS)

coverage: setup
	$(BIN)/python -m coverage report --skip-covered --fail-under=90
	for floor in domain adapters store services; do \
		$(BIN)/python -m coverage report --include="airflow_raif/$$floor/*" --fail-under=95 --format=total \
			|| { echo "branch coverage of airflow_raif/$$floor is below 95 %"; exit 1; }; \
	done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The guide, into build/site; a link that leads nowhere fails it.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

# Beside what users would pick instead, in an environment of its own; ARGS=--quick takes two minutes and writes no page.
bench:
	$(MAKE) setup VENV=.venv-bench DEPENDENCY_GROUPS="bench test"
	.venv-bench/bin/python -m tests.benchmarks $(ARGS)

# The README's pictures of the pages, drawn anew.
screenshots: setup chromium
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c $(CONSTRAINTS) --group screenshots
	$(BIN)/python -m tests.browser.screenshots

# The store's tests want a PostgreSQL server; where it can be neither found nor installed they are skipped.
postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y postgresql; } \
		|| echo "PostgreSQL is not here and cannot be installed without root: its tests will be skipped"

redis:
	@command -v redis-server >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y redis-server; } \
		|| echo "redis-server is not here and cannot be installed without root"

# The pages' tests drive a browser of the system's packages.
chromium:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium; } \
		|| echo "Chromium is not here and cannot be installed without root: tests of the pages in it will be skipped"

# Pins without index addresses. SDKs and prices are newer than the oldest Airflow, hence dates of their own.
constraints: setup
	echo "apache-airflow==$(AIRFLOW)" | $(BIN)/uv pip compile pyproject.toml --quiet --all-extras --group test \
		--group lint --group docs --group setup --group bench --python-version 3.11 --no-emit-index-url --no-header \
		--no-annotate -c - --upgrade -o constraints/airflow-$(AIRFLOW)-py3.11.txt
	printf 'apache-airflow==$(OLDEST_AIRFLOW)\nanthropic>=1.15,<2\nopenai<3\ngoogle-genai<3\n' | $(BIN)/uv pip compile \
		pyproject.toml --quiet --all-extras --group test --group lint --group setup --python-version 3.11 \
		--no-emit-index-url --no-header --no-annotate -c - --upgrade --exclude-newer 2026-04-20 \
		--exclude-newer-package genai-prices=2026-11-10 --exclude-newer-package anthropic=2026-11-10 \
		--exclude-newer-package google-genai=2026-08-01 --exclude-newer-package httpx2=2026-11-10 \
		--exclude-newer-package httpcore2=2026-11-10 --exclude-newer-package idna=2026-11-10 \
		--exclude-newer-package pydantic-ai-slim=2026-11-28 --exclude-newer-package pydantic-graph=2026-11-28 \
		-o constraints/airflow-$(OLDEST_AIRFLOW)-py3.11.txt

clean:
	rm -rf $(VENV) .venv-oldest .venv-bench build .pytest_cache .mypy_cache .ruff_cache .coverage*
