# Python 3.13 and make are the only requirements; Node comes from PyPI. The syntax is that of GNU make 3.81 (macOS).
PYTHON ?= python3.13
BIN := .venv/bin
WANTED := $(shell cat .python-version)
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

.PHONY: help install demo start tick test quick chaos fuzz check format lock licences screenshots vendor audit clean

help: ## Print this list.
	@echo "Usage: make [PYTHON=/path/to/python$(WANTED)] TARGET"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

install: .venv/installed localdev/node_modules/installed ## Install the Python and npm packages.

demo: install ## Run the whole pipeline once, on local parts, and print the results.
	$(BIN)/python -m localdev demo

start: install ## Run the app and its services locally until Ctrl-C. ARGS="--help" lists options.
	$(BIN)/python -m localdev start $(if $(TRACE),--trace) $(ARGS)

tick: install ## Run the flows of `make start` that are due now, and show the results.
	$(BIN)/python -m localdev tick

test: install ## Run all tests, and check how much of the code they cover.
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --max-worker-restart=0 --cov

quick: install ## Run the fast tests only: unit, fundamentals and flows.
	$(BIN)/python -m pytest tests/unit tests/fundamentals tests/flows tests/test_*.py

chaos: install ## Kill, freeze and cut off the app at random, with many tenants.
	$(BIN)/python -m pytest tests/chaos --chaos-scale=10 -o faulthandler_timeout=3600 --numprocesses=2 --dist=worksteal

fuzz: install ## Attack the code with generated input for an hour.
	$(BIN)/python -m pytest tests/fuzz --fuzz-seconds=3600 -o faulthandler_timeout=3600

check: .venv/installed ## Lint, check the format and check the types.
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: .venv/installed ## Format the code, and fix what the linter can fix.
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

lock: .venv/installed ## Pin the newest versions that the requirements allow, with the hashes of their files.
	rm -rf .lock && mkdir .lock
	grep -v '^-r constraints' requirements.txt > .lock/requirements.txt
	grep -v '^-r constraints' requirements-dev.txt > .lock/requirements-dev.txt
	$(compile) .lock/requirements.txt --output-file .lock/constraints.txt
	$(compile) .lock/requirements-dev.txt --output-file .lock/constraints-dev.txt --constraint .lock/constraints.txt \
		$$(sed -n 's/^\([^ =]*\)==.*/--no-emit-package=\1/p' .lock/constraints.txt)
	mv .lock/constraints.txt .lock/constraints-dev.txt . && rm -rf .lock

licences: install ## List the licences of all packages, in docs/licences.md.
	$(BIN)/python -m localdev.licences

screenshots: install ## Take the pictures of the page in docs/images, in Chromium.
	$(BIN)/python -m tests.browser.screenshots

vendor: install ## Write dashboard/page/preact.js from the npm packages.
	$(BIN)/python -m localdev.vendor

audit: install ## Look for known vulnerabilities in the packages.
	$(BIN)/python -m localdev.audit

clean: ## Remove the installed packages and all caches.
	rm -rf .venv .lock localdev/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage

# Not installed in place: a package that is no longer required would stay. The marker is written last, so that an
# installation that failed is repeated.
.venv/installed: requirements.txt requirements-dev.txt constraints.txt constraints-dev.txt
	$(need_python)
	@echo "Installing Python packages into .venv"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# Install again if the interpreter of .venv was removed or has another version.
ifneq ($(call version,$(BIN)/python),$(WANTED))
.PHONY: .venv/installed
endif

localdev/node_modules/installed: localdev/package.json localdev/package-lock.json | .venv/installed
	@echo "Installing Azurite and the Cosmos DB server into localdev/node_modules"
	@$(BIN)/npm ci --prefix localdev --omit=dev --omit=optional --loglevel=error
	@touch $@

compile = $(BIN)/python -m uv pip compile --quiet --universal --python-version $(WANTED) --generate-hashes --no-annotate \
	--custom-compile-command 'make lock'

found = $(call version,$(PYTHON))

define need_python
@if [ "$(found)" != "$(WANTED)" ]; then \
	echo "DataSync needs Python $(WANTED), but $(PYTHON) $(if $(found),is Python $(found),does not run)." >&2; \
	echo "Install Python $(WANTED), or name its interpreter: make PYTHON=/path/to/python$(WANTED) $(MAKECMDGOALS)" >&2; \
	exit 1; \
fi
endef
