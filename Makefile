# make train     environment, then the main job on the bundled data: papermill runs nbs/train.ipynb
# make test      environment, then the whole test suite
# make quick     style, types and the fast tests
# make lab       the walkthrough in JupyterLab
# make explore   the panels without code, in the browser
# make site      the same as a website, in build/site
# make study     the paper's claims, measured again on the digits: stop and repeat it as you like
# make gpu       what a machine with one GPU can do, in twenty minutes, into results/gpu
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Errors only: pip warns of every editable package, and of much that does not concern the user.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
SITE_READY := $(VENV)/.site
NPM := build/npm/.ready

# On a machine that others use, too, a thread that waits for another soon sleeps (44_launch says why).
export GOMP_SPINCOUNT ?= 1000

.PHONY: setup train evaluate test lint quick browser screenshots pictures notebooks readme hooks lab explore site speed study gpu clean
.DEFAULT_GOAL := train

setup: $(READY)

# constraints.txt pins what this suite was tested with, and a pip that takes two thirds of the time of
# the one that Python 3.11 brings; a plain `pip install -e '.[dev]'` works, too.
# (Not made again for a new pyproject.toml: every nbdev_export writes that file anew, though nothing changes.)
$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is {v[0]}.{v[1]}: run make PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip || echo "The pip that came with Python works as well, but takes longer"
	$(PIP) -e '.[dev]'
	@touch $@

train: $(READY)
	@mkdir -p runs/digits
	$(BIN)/papermill --log-output --no-progress-bar nbs/train.ipynb runs/digits/train.ipynb -p overwrite True
	@echo "Open runs/digits/train.ipynb, or look into runs/digits/samples"

evaluate: $(READY)
	$(BIN)/papermill --log-output --no-progress-bar nbs/evaluate.ipynb runs/digits/evaluate.ipynb -p run_dir runs/digits

# Style over library, tests and notebooks; types over the library.
lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy

# The notebooks' own tests, as nbdev runs them; every notebook in a real kernel (but for the run
# notebooks, which pytest runs in the small); that library and notebooks agree, properties, golden
# values and runs. The kernels run every cell that nbdev runs, so nbdev need not repeat the LONG
# notebooks here; `nbdev_test` alone does.
# One thread a process, as two processes run side by side. They share whole modules or notebooks,
# in the order that conftest.py and nbval_plugin.py put them in: the longest first.
# Chromium is installed beside the packages, as either takes one processor core. What npm brings is
# needed by pytest alone, and may take minutes: it comes while notebooks run.
SHARED := -n 2 --dist loadscope --no-loadscope-reorder
RUN_NOTEBOOKS := nbs/train.ipynb nbs/evaluate.ipynb nbs/pretokenize.ipynb nbs/your_images.ipynb \
  nbs/study_run.ipynb
LONG := 0[0-8]_|1[0-47]_|20_|3[135]_|4[0-9]_|5[0-3]_|6[03]_|algorithm1|make_it_yours
WITHOUT := The website's packages are not here: its tests will be skipped
# Many processes import the library: Python keeps what it has compiled, even where it is told not to.
test: export OMP_NUM_THREADS = 1
test: export PYTHONDONTWRITEBYTECODE =
test:
	@$(MAKE) --no-print-directory --jobs 2 setup browser
	@$(MAKE) --no-print-directory lint
	@command -v npm >/dev/null && $(MAKE) --no-print-directory $(SITE_READY) || echo "$(WITHOUT)"
	@{ [ ! -e $(SITE_READY) ] || $(MAKE) --no-print-directory $(NPM) || echo "$(WITHOUT)"; } & \
	  $(BIN)/nbdev_test --n_workers 2 --timing --skip_file_re '^([_.]|$(LONG))' && \
	  $(BIN)/python -m pytest $(SHARED) -p tests.nbval_plugin --nbval-lax \
	    --nbval-sanitize-with tests/nbval.cfg $(RUN_NOTEBOOKS:%=--ignore %) nbs; \
	  status=$$?; wait; exit $$status
	$(BIN)/python -m pytest $(SHARED) tests

quick: export OMP_NUM_THREADS = 1
quick: $(READY) lint
	$(BIN)/python -m pytest $(SHARED) -m "not slow" tests

# Chromium for the tests of the widgets: installed where we may (root on Debian or Ubuntu), else those tests are skipped and say so.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null && command -v chromedriver >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing chromium and chromium-driver for the tests of the widgets"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium chromium-driver; } >/dev/null || true; \
	  fi; }
	@command -v chromedriver >/dev/null || echo "No chromedriver: the tests of the widgets in a browser will be skipped (apt-get install chromium chromium-driver)"

# Pictures of the widgets in JupyterLab, and how fast they are, into results/widgets.
screenshots: $(READY) browser
	SCREENSHOTS=1 $(BIN)/python -m pytest tests/browser

# After changing a notebook: links between notebooks, the library, clean notebooks, the README.
notebooks: $(READY)
	$(BIN)/python -m tests.tools.reading_order nbs
	$(BIN)/python -m tests.tools.static_outputs nbs/*.ipynb
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(MAKE) readme

# The moving pictures of the README; three of them are the panels, in Chromium.
pictures: $(NPM) browser
	$(BIN)/python -m tests.tools.moving_picture results/pictures/rar.gif
	$(BIN)/python -m tests.tools.moving_panels results/pictures

# README.md is nbs/index.ipynb, with its links as seen from the top folder.
README ?= README.md
readme: $(READY)
	$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --stdout nbs/index.ipynb \
	  | sed -e 's#](\.\./#](#g' -e 's#](\([0-9a-z_]*\.ipynb\))#](nbs/\1)#g' > $(README)

hooks: $(READY)
	$(BIN)/nbdev_install_hooks

lab: $(READY)
	$(BIN)/jupyter lab nbs/index.ipynb

explore: $(READY)
	$(BIN)/python -m tests.tools.explore

# The website: any web server can publish the folder. What only it needs is installed with it:
# Sphinx (settings.ini, constraints.txt) and, from npm, what its pages would else load from other
# hosts: build/npm (tests/site/package-lock.json, with checksums) and build/onnxruntime.
SITE ?= build/site
$(SITE_READY): $(READY)
	$(PIP) -e '.[site]'
	@touch $@

$(NPM): $(SITE_READY) tests/site/package.json tests/site/package-lock.json
	@command -v npm >/dev/null || { echo "npm is needed for the website: install Node.js (apt-get install npm)"; exit 1; }
	@mkdir -p $(@D)
	cp tests/site/package.json tests/site/package-lock.json $(@D)
	npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel error
	$(BIN)/python -c 'from rar_nb.play.browser_model import fetch_runtime; fetch_runtime("build/onnxruntime")'
	@touch $@

site: $(NPM)
	$(BIN)/python -m tests.site.build $(SITE)
	@echo "python3 -m http.server --directory $(SITE) shows it at http://localhost:8000"

# How fast this machine's processor samples and trains, into results/speed (what is there is kept).
speed: $(READY)
	$(BIN)/python -m tests.benchmarks.speed $(SPEED)

# The runs of the study that have no result yet, into results/study. Stop it at any moment; the same
# command goes on. `make study STUDY="--part headline --jobs 2 --minutes 60"`, or STUDY=--list.
study: $(READY)
	$(BIN)/python -m rar_nb.runs.study $(STUDY)

# What a machine with one GPU can do, in pieces, into results/gpu/<card>; a piece that is done is not
# done again. `make gpu GPU="--minutes 8"` stops in time; `make gpu READY= PYTHON=python3` uses an
# environment that is there already, without making one.
gpu: $(READY)
	$(if $(READY),$(BIN)/python,$(PYTHON)) -m tests.benchmarks.gpu $(GPU)

clean:
	rm -rf $(VENV) *.egg-info build dist .pytest_cache .hypothesis
