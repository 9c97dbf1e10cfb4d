# The two commands of the README are `make run` and `make test`. Both work on a fresh clone with
# Python 3.11+, git and make; everything else is installed into .venv from hashed lock files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8484
ONCE ?=
PYTEST_ARGS ?=
LOCK = uv pip compile -q --universal --python-version 3.11 --generate-hashes
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

$(VENV)/created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Kimiya needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run: $(VENV)/created requirements/run.lock pyproject.toml
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/run.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/test: $(VENV)/run requirements/test.lock
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/test.lock
	touch $@

# torch is pinned but not hashed: its CPU build and the index's build are different files.
$(VENV)/train: $(VENV)/test requirements/train.lock
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/train.lock
	touch $@

.PHONY: run
run: $(VENV)/run ## Start the gateway with the embedded model and send real calls through it (ONCE=1 ends there)
	$(BIN)/kimiya local install
	ONCE=$(ONCE) $(BIN)/python scripts/make_run.py --port $(PORT)

.PHONY: test
test: $(VENV)/train npm-clients ## Run every test
	$(BIN)/kimiya local install
	eval "$$(sh scripts/postgres_for_tests.sh)"; $(BIN)/pytest $(PYTEST_ARGS); \
	result=$$?; sh scripts/postgres_for_tests.sh stop; exit $$result

.PHONY: npm-clients
npm-clients: ## Install the npm clients the end-to-end tests drive, where npm is present
	@sh scripts/npm_clients.sh

.PHONY: check
check: $(VENV)/test ## Lint, types, layers, doctests, generated docs
	$(BIN)/ruff format --check src tests bench scripts
	$(BIN)/ruff check src tests bench scripts
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest -q --doctest-modules --ignore=src/kimiya/training --ignore=src/kimiya/integrations src/kimiya
	$(BIN)/python scripts/generated_docs.py --check

.PHONY: format
format: $(VENV)/test ## Format the code
	$(BIN)/ruff format src tests bench scripts
	$(BIN)/ruff check --fix src tests bench scripts

.PHONY: lock
lock: ## Compile the lock files anew (needs uv)
	$(LOCK) --extra local --extra otel --extra postgres --extra prices --extra strands --group pyproject.toml:run --group pyproject.toml:test --group pyproject.toml:check pyproject.toml -o requirements/test.lock
	$(LOCK) --extra local --group pyproject.toml:run -c requirements/test.lock pyproject.toml -o requirements/run.lock
	$(LOCK) --override requirements/without-torch.txt --group pyproject.toml:train-test -c requirements/test.lock -o requirements/train.lock

.PHONY: bench
bench: $(VENV)/test ## Run the gateway bench (the table in the README)
	$(BIN)/python bench/gateway.py

.PHONY: soak
soak: $(VENV)/test ## Ten minutes at half capacity with clients that vanish and hosts that stall
	$(BIN)/python bench/soak.py

.PHONY: fuzz
fuzz: $(VENV)/test ## Fuzz taming for KIMIYA_FUZZ_S seconds (600)
	KIMIYA_FUZZ_S=$${KIMIYA_FUZZ_S:-600} $(BIN)/pytest -m soak tests/taming/test_fuzz.py

.PHONY: clean
clean: ## Remove what make has made
	rm -rf $(VENV) tests/e2e/npm/node_modules dist build .pytest_cache .ruff_cache .hypothesis
