# Nothing but Python ≥ 3.11, make and a package index is needed: every target sets up .venv by itself, once.
PYTHON ?= python3
BUDGET ?=
DATA   ?=
NB     ?=
PORT   ?= 8000
ARGS   ?=
KILLS  ?= 100

BIN    := .venv/bin
PY     := $(BIN)/python
# The course's own, and not what a reader opens beside them.
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9][0-9]*_*.ipynb))
PAGE_TESTS := tests/test_book.py tests/test_browser.py tests/test_lab.py tests/test_launch.py tests/test_pdf.py
BOOK   := $(BIN)/jupyter-book build . --toc book/_toc.yml --path-output . -nW --keep-going
# A matplotlib cache in a place that can always be written, so that no first-run message reaches an output.
export MPLCONFIGDIR := $(CURDIR)/_build/matplotlib
# Where this is set, torch is compiled anew at each start: 22 s instead of 4.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run checkpoints test lint unit nbval book page-tests full bench bench-lock soak audit lab pdf serve lock clean help
.DEFAULT_GOAL := help

help:  ## show the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ {printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/ready: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python {v[0]}.{v[1]} is too old: use 3.11 or newer, for instance make PYTHON=python3.12")'
	@echo "Setting up .venv from requirements.lock (once, about 6 GB with the GPU libraries)"
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.lock
	@touch $@

run: .venv/ready  ## execute every notebook and build the book from it (BUDGET=quick DATA=embedded NB=…)
	@exec env COURSE_BUDGET=$(or $(BUDGET),$(COURSE_BUDGET),quick) COURSE_DATA=$(or $(DATA),$(COURSE_DATA),embedded) $(PY) -m helpers.notebooks run $(NB)

test: lint unit nbval book page-tests  ## lint, unit tests, notebooks compared, strict book build, page tests

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell README.md ARCHITECTURE.md LOG.md CONTRIBUTING.md book helpers benchmarks tests $(NOTEBOOKS)

unit: .venv/ready
	$(PY) -m pytest -n 2 --dist worksteal $(addprefix --ignore ,$(PAGE_TESTS))

nbval: .venv/ready
	OMP_NUM_THREADS=1 COURSE_BUDGET=quick COURSE_DATA=embedded $(PY) -m pytest --nbval $(NOTEBOOKS) -p no:cacheprovider -n 2 --dist loadfile

book: .venv/ready  ## the book from the committed outputs, into _build/html
	@$(PY) -m helpers.notebooks address
	$(BOOK)

page-tests: book
	$(PY) -m pytest -n 2 --dist worksteal $(PAGE_TESTS)

full: .venv/ready  ## run in place and rewrite the committed outputs (BUDGET=full DATA=real NB=…)
	@exec env COURSE_BUDGET=$(or $(BUDGET),$(COURSE_BUDGET),full) COURSE_DATA=$(or $(DATA),$(COURSE_DATA),real) $(PY) -m helpers.notebooks store $(NB)

# The rivals see the packages of .venv behind their own, so that only what is missing there is installed.
.venv-bench/ready: requirements-bench.lock .venv/ready
	@echo "Setting up .venv-bench: TensorFlow, Keras and Lightning (once, about 1.5 GB)"
	@$(PYTHON) -m venv .venv-bench
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/course.pth"
	@.venv-bench/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements-bench.lock
	@touch $@

bench: .venv/ready  ## speed against Keras, Lightning, the article's way and the bare step (ARGS="--help")
	@$(MAKE) --no-print-directory .venv-bench/ready || echo "The rivals could not be set up: the race goes on without them."
	$(PY) benchmarks/speed.py $(ARGS)

soak: .venv/ready  ## kill training runs at random moments and compare what they end with (KILLS=100)
	OMP_NUM_THREADS=1 $(PY) benchmarks/soak.py --kills $(KILLS) $(ARGS)

audit:  ## known weaknesses of the locked packages (needs the network)
	$(PYTHON) -m venv _build/audit
	_build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@_build/audit/bin/pip-audit --strict --requirement requirements.lock --require-hashes --disable-pip || { echo "audit: not passed. A package in a table above has a known weakness; without a table, an error above says what could not be looked up in the package index."; exit 1; }

# This machine only, no look-up of news or new versions, and no question whether there should be one. JupyterLab
# makes a token for each start, and prints the address with it; a token given by JUPYTER_TOKEN would not be printed.
lab: .venv/ready  ## JupyterLab on localhost with a token, in notebooks/ or on one of them (NB=01_lenet5)
	@mkdir -p $(BIN)/../etc/jupyter/labconfig
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}' > $(BIN)/../etc/jupyter/labconfig/default_setting_overrides.json
	$(BIN)/jupyter lab --notebook-dir=. --ServerApp.ip=127.0.0.1 --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url= notebooks$(if $(NB),/$(firstword $(NB)).ipynb)

pdf: book  ## the whole book as one PDF, _build/classic-cnns.pdf (needs Chromium)
	$(PY) book/pdf.py _build/html _build/classic-cnns.pdf

serve: book  ## the built book on localhost
	$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

checkpoints: .venv/ready  ## list what interrupted trainings have left in checkpoints/ (REMOVE=1 deletes it)
	@$(PY) -m helpers.notebooks checkpoints $(if $(REMOVE),--remove)

lock:  ## resolve requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml --output-file requirements.lock

bench-lock:  ## the same for requirements-bench.lock, on top of requirements.lock (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --extra bench --constraint requirements.lock pyproject.toml --output-file requirements-bench.lock

clean:  ## remove what was built, not the environment
	rm -rf _build
