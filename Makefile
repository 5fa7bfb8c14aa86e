# Everything here works on a machine that has git, make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DRAPE := $(BIN)/drape
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test contract check simulate matrix chaos evidence fuzz format lock clean

help:
	@echo "make demo         start everything here and preview examples/vite-react (ONCE=1: stop once it is ready; PORT=N)"
	@echo "make test         the whole test suite, live parts included (ARGS='-k name' narrows it)"
	@echo "make contract     what every VM provider must do, tried on one of them (PROVIDER=local|docker|fly|simulated)"
	@echo "make check        format, lint, types, import contracts, event schemas, known vulnerabilities"
	@echo "make simulate     all services on virtual time with faults, against the rules (SEEDS=1000; SEED=k: that one; PLANT=name)"
	@echo "make matrix       a project of every framework, from lock file to ready, into docs/matrix.md (ROWS='vite-react hexo': those)"
	@echo "make chaos        a real platform under load while processes, disks and cables are taken from it (SECONDS=600 SEED=n KEEP=DIR)"
	@echo "make evidence     previews, failures and every alert, live, held against the log: a report (PREVIEWS=50 OUT=DIR)"
	@echo "make fuzz         rubbish for HTTP, sockets, commands, the agent, archives, projects and their output (INPUTS=100000 SEED=n)"
	@echo "make format       let the formatter and the linter mend what they can"
	@echo "make lock         renew the pinned requirements"

# Node: the machine's own where it is 22 or newer, else the one from PyPI.
$(VENV)/.installed: requirements.lock requirements-node.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Drape needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@node -e 'process.exit(parseInt(process.versions.node) < 22)' 2>/dev/null \
		|| { echo "installing Node 24 from PyPI"; $(BIN)/python -m pip install --quiet --require-hashes -r requirements-node.lock; }
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	@$(DRAPE) demo examples/vite-react $(if $(ONCE),--once) $(if $(PORT),--port $(PORT))

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest $(ARGS)

PROVIDER ?= local
contract: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest tests/pool/test_$(PROVIDER)_provider.py $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check shared services deploy tests
	$(BIN)/ruff check shared services deploy tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.event_schemas --check
	$(BIN)/python -m deploy.grafana.render --check
	$(BIN)/python -m deploy.audit

simulate: $(VENV)/.installed
	@$(DRAPE) simulate $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000)) $(if $(PLANT),--plant $(PLANT))

matrix: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.matrix $(ROWS)

fuzz: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.fuzz --inputs $(or $(INPUTS),100000) $(if $(SEED),--seed $(SEED))

chaos: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep $(KEEP))

evidence: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.evidence --previews $(or $(PREVIEWS),50) $(if $(OUT),--out $(OUT))

format: $(VENV)/.installed-dev
	$(BIN)/ruff format shared services deploy tests
	$(BIN)/ruff check --fix shared services deploy tests

UV_COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q
lock:
	$(UV_COMPILE) pyproject.toml -o requirements.lock
	$(UV_COMPILE) pyproject.toml --group dev -o requirements-dev.lock
	$(UV_COMPILE) --group node -o requirements-node.lock
	$(UV_COMPILE) --group agent -c requirements.lock -o deploy/workspace/requirements.lock
	$(UV_COMPILE) --group service -c requirements.lock -o requirements-service.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
