BIN := .venv/bin
READY := .venv/ready

.PHONY: help run test lint ui clean
help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

run: $(READY) ## set up, then bring models, evaluations and registry up to date
	@$(BIN)/python -m tasks.lifeline $(BIN)/python -m flows

test: $(READY) ## set up, then run all tests
	@$(BIN)/python -m pytest

lint: $(READY) ## style, format and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

ui: $(READY) ## open the MLflow registry and the Prefect runs on this machine
	@$(BIN)/mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000 & mlflow=$$!; \
	trap "kill $$mlflow" EXIT; trap exit INT TERM; \
	echo "MLflow: http://127.0.0.1:5000; runs show live in Prefect with PREFECT_API_URL=http://127.0.0.1:4200/api"; \
	$(BIN)/prefect server start --host 127.0.0.1 --port 4200

clean: ## remove the environment and the engines' state, with the registry; data, models and reports stay
	rm -rf .venv .threestage .prefect mlflow.db mlartifacts *.egg-info .pytest_cache .ruff_cache .hypothesis

# The lock pins everything but torch: pyproject.toml gives torch a range, which the machine's own build fits into.
$(READY): pyproject.toml requirements.lock
	@command -v python3 >/dev/null || { echo "python3 is not on PATH: install Python 3.11 or newer"; exit 1; }
	@test -x $(BIN)/python || python3 -m venv .venv
	@echo "Installing into .venv (a minute or two)"
	@$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $(READY)
