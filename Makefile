BIN := .venv/bin
READY := .venv/ready
TOOLS := .venv/tools
PYTHON ?= python3
MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200
APP_PORT ?= 8000
# tests/conftest.py says how many processes; what takes long begins first.
SIDE_BY_SIDE := --numprocesses auto --dist loadfile --no-loadscope-reorder

# Scripts hold the path of the folder that they were installed in, so READY names it.
USABLE = $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	{ ! test -s $(READY) || test "$$(cat $(READY))" = "$$(pwd -P)"; }
ifeq ($(origin PYTHON),command line)
USABLE += && test "$$($(BIN)/python -V)" = "$$("$(PYTHON)" -V 2>/dev/null)"
endif
ifneq ($(shell $(USABLE) && echo usable),usable)
.PHONY: $(READY)
endif

.PHONY: help run serve test test-quick test-processors lint schema notebooks site ui clean
help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

run: $(READY) ## set up, then bring models, evaluations and registry up to date
	@$(BIN)/threestage run

serve: $(READY) ## talk to the champions: a page and OpenAI's API on this machine
	@$(BIN)/threestage serve --port $(APP_PORT)

test: $(TOOLS) ## set up, then run all tests
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-quick: $(TOOLS) ## unit tests alone, in a minute or two
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-processors: $(TOOLS) ## the arithmetic of llm/ as each lower kind of processor does it
	@for kind in $$($(BIN)/python -m llm.kernels.processor); do \
		echo "$$kind:"; THREESTAGE_PROCESSOR=$$kind $(BIN)/python -m pytest --no-header --numprocesses 2 -m "not slow" \
			--ignore tests/llm/kernels/test_c_library.py tests/llm/kernels tests/llm/generation \
			tests/llm/objectives/classifier tests/llm/training/test_backend.py tests/llm/training/test_optim.py || exit; done

lint: $(TOOLS) ## style, format, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyrefly check
	@$(BIN)/lint-imports

schema: $(READY) ## write params.schema.json, after a change of a class of parameters or for a new block
	@$(BIN)/python -c "from tasks.params import write_schema; write_schema()"

notebooks: $(READY) ## write the chapters of docs/book as notebooks
	@$(BIN)/python docs/book/notebooks.py

site: $(TOOLS) ## build the site of the documentation; a dead link is an error
	@$(BIN)/python docs/build_site.py

# The ports are asked first: MLflow says what failed only among much else, and macOS itself may listen on 5000 (AirPlay).
# Prefect's page must be told where its server is: by itself it asks on 4200, whatever --port says.
# MLflow's files lie where commands that know no server look for them, too.
# Prefect removes runs that ended 90 days ago.
# Both answer their own pages and this machine's programs alone.
# MLflow sends no usage data, and runs no jobs: nothing here has any, and their eight processes would take 1.4 GB.
# `$!` is the server that started last, also in the moment before a variable could hold it.
LOCAL = 127.0.0.1:$(1),localhost:$(1)
PAGES = http://127.0.0.1:$(1),http://localhost:$(1)
ui: $(READY) ## open the MLflow registry and the Prefect runs on this machine
	@for each in MLFLOW_PORT=$(MLFLOW_PORT) PREFECT_PORT=$(PREFECT_PORT); do \
		$(BIN)/python -c 'import socket, sys; sys.exit(not socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1]))))' \
			"$${each#*=}" 2>/dev/null || { echo "$$each is no free port: name another, as in make ui $${each%=*}=5050"; exit 1; }; \
	done
	@echo "Starting MLflow and Prefect (up to a minute); runs show live in Prefect with PREFECT_API_URL=http://127.0.0.1:$(PREFECT_PORT)/api"
	@trap 'kill $$ready $$mlflow $$! 2>/dev/null; wait' EXIT; trap exit HUP INT TERM; \
	$(BIN)/python -m tasks.stages.ui $(MLFLOW_PORT) $(PREFECT_PORT) & ready=$$!; \
	MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --workers 1 \
		--backend-store-uri sqlite:///mlflow.db --default-artifact-root "$$(pwd -P)/mlartifacts" --host 127.0.0.1 --port $(MLFLOW_PORT) \
		--allowed-hosts $(call LOCAL,$(MLFLOW_PORT)) --cors-allowed-origins $(call PAGES,$(MLFLOW_PORT)) & mlflow=$$!; \
	PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs PREFECT_SERVER_UI_API_URL=http://127.0.0.1:$(PREFECT_PORT)/api \
		PREFECT_SERVER_CORS_ALLOWED_ORIGINS=$(call PAGES,$(PREFECT_PORT)) PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true \
		$(BIN)/uvicorn --factory tasks.stages.prefect_app:create_app --host 127.0.0.1 --port $(PREFECT_PORT) --log-level warning & \
	while kill -0 $$mlflow && kill -0 $$!; do sleep 1; done 2>/dev/null; \
	kill -0 $$mlflow 2>/dev/null && echo "Prefect has ended, and MLflow with it" || echo "MLflow has ended, and Prefect with it"; \
	exit 1

# Nothing makes these again; the rest that `clean` removes comes back by itself.
RECORDS = $(wildcard .threestage .prefect mlflow.db mlflow.db-* mlartifacts mlruns)
clean: ## remove .venv and caches; asks before it removes runs, registry and decisions; data, models and reports stay
	@test -z "$(RECORDS)" || test -n "$(filter 1 yes,$(YES))" || { \
		echo "make clean removes $(RECORDS):"; \
		echo "all runs, registered models, decisions about them and interrupted trainings are lost, and nothing brings them back."; \
		test -t 0 || { echo "Nothing was removed: there is no terminal to ask on, and no YES=1"; exit 1; }; \
		printf 'Type yes to remove them: '; read -r answer; \
		test "$$answer" = yes || { echo "Nothing was removed"; exit 1; }; }
	rm -rf $(RECORDS) .venv .site site .cache *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# uv is faster than pip, and without a GPU it takes torch's CPU wheels. pip takes PyPI's, which on Linux bring 4.5 GB of CUDA.
# Where only a mirror of PyPI can be reached: make run UV_TORCH_BACKEND=
UV := $(shell command -v uv)
UV_TORCH_BACKEND ?= auto
unexport UV_TORCH_BACKEND # uv refuses an empty one

# pip would compile all of 33,000 modules, a minute, of which few are ever imported. Python compiles them when they are,
# and keeps what it made, unless the environment forbids it. The pip that Python 3.11 brings takes 69 s for the rest,
# 26.3 takes 41.
unexport PYTHONDONTWRITEBYTECODE
# setuptools would warn of editable installations at length.
ifdef UV
INSTALL_PACKAGES := PYTHONWARNINGS=ignore uv pip install --quiet --python $(BIN)/python --constraint requirements.lock \
	$(if $(UV_TORCH_BACKEND),--torch-backend $(UV_TORCH_BACKEND))
else
INSTALL_PACKAGES := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-compile --constraint requirements.lock
endif

$(READY): pyproject.toml requirements.lock
	@$(USABLE) || { \
		found="$$("$(PYTHON)" -c 'import sys; print("Python %d.%d.%d" % sys.version_info[:3]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null)" || \
			{ echo "$(PYTHON) is $${found:-missing}; 3.11 or newer is needed: name another, as in make run PYTHON=python3.12"; exit 1; }; \
		test ! -e .venv || echo ".venv is broken, of another Python or of another folder: it is made anew"; \
		"$(PYTHON)" -m venv --clear .venv; }
	@echo "Installing into .venv (a minute or two)"
	@$(if $(UV),,$(INSTALL_PACKAGES) --upgrade 'pip>=25')
	@$(INSTALL_PACKAGES) --editable '.[app]'
	@$(BIN)/python -m tasks.stages.libraries
	@pwd -P > $(READY)

INSTALL = test "$$(id -u)" = 0 && { apt-get update && apt-get install --yes --no-install-recommends $(1); } >.venv/$(1).log 2>&1

# What tests and lint need besides; `make run` does without. The page is tested in a real browser, a team's servers on a
# real database, compiled blocks with a real compiler, a template of Ollama's in the language that fills it in.
$(TOOLS): $(READY)
	@echo "Installing what the tests need (a minute or two)"
	@$(INSTALL_PACKAGES) --editable '.[dev]'
	@command -v chromium >/dev/null || { $(call INSTALL,chromium); } || \
		echo "Chromium is missing and can't be installed here, so the page's tests are skipped: install the package chromium"
	@command -v initdb >/dev/null || command -v pg_ctlcluster >/dev/null || { $(call INSTALL,postgresql); } || \
		echo "PostgreSQL is missing and can't be installed here, so a team's servers are not tested: install the package postgresql"
	@command -v g++ >/dev/null || { $(call INSTALL,g++); } || \
		echo "A C++ compiler is missing and can't be installed here, so compiled blocks are not tested: install the package g++"
	@command -v go >/dev/null || { $(call INSTALL,golang-go); } || \
		echo "Go is missing and can't be installed here, so a Modelfile's template is not filled in: install the package golang-go"
	@touch $(TOOLS)
