# Python 3.13 is all that has to be there; Node comes from PyPI. PYTHON=… names another interpreter.
PYTHON ?= python3.13
BIN := .venv/bin

.PHONY: install demo start tick test check lock clean

install: .venv/installed localdev/node_modules/installed

.venv/installed: requirements.txt requirements-dev.txt constraints.txt
	@echo "Installing Python packages into .venv; about half a minute, once"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

localdev/node_modules/installed: localdev/package.json localdev/package-lock.json .venv/installed
	@echo "Installing Azurite and the Cosmos DB server into localdev/node_modules; about 20 seconds, once"
	@$(BIN)/npm ci --prefix localdev --omit=dev --omit=optional --loglevel=error
	@touch $@

demo: install
	$(BIN)/python -m localdev demo

start: install
	$(BIN)/python -m localdev start

tick: install
	$(BIN)/python -m localdev tick

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pins every version anew, to the newest that the requirements allow.
lock:
	rm -rf .venv && : > constraints.txt && $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	echo '# Every version that the two requirements files lead to. Written by `make lock`.' > constraints.txt
	$(BIN)/pip freeze >> constraints.txt
	touch .venv/installed

clean:
	rm -rf .venv localdev/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
