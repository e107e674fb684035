# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
OUT    ?= demo-out

# One thread per process: two-thread CPU torch collapses as soon as another process is busy.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?=

.PHONY: demo gallery test check minimums soak bench font clean help

help:
	@echo "make demo   install, unpack the mini world, fit a space, add 1,000 LoRAs, search (no torch needed)"
	@echo "make gallery  the same in a browser, pictures included: faces, who is this, sliders"
	@echo "make test   everything that must hold, in under 15 minutes on 2 cores"
	@echo "make minimums  the main job with the lowest versions declared, installed from scratch"
	@echo "make check  ruff, mypy and the import rules only"
	@echo "make soak   long campaigns: kill -9 loops, random operations, fuzzing"
	@echo "make bench  speed and quality figures, as ratios measured side by side"

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[cpu]'
	@touch $@

# torch first and alone, pinned: any other order lets a dependency choose its CUDA build.
$(VENV)/.dev: $(VENV)/.core
	$(PIP) install -c constraints.txt 'torch==2.13.0'
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/python -m examples.demo $(OUT)

# Sliders are fitted and drawn, and faces told apart by what they draw: that takes torch (pinned and first, as for .dev).
$(VENV)/.web: $(VENV)/.core
	$(PIP) install -c constraints.txt 'torch==2.13.0'
	$(PIP) install -c constraints.txt -e '.[cpu,web,diffusion,marking]'
	@touch $@

gallery: $(VENV)/.web
	$(BIN)/python -m examples.gallery $(OUT)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy w2w_registry cli

# Files, not tests, are dealt out: fixtures of a file (servers, fitted spaces) are then made once. "auto" is one worker
# more than processors (tests/conftest.py).
test: check
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not soak and not live'

# The lowest versions pyproject.toml declares, installed together in a venv of their own, do the main job.
minimums: $(VENV)/.dev
	rm -rf .build/minimums && $(PYTHON) -m venv .build/minimums
	.build/minimums/bin/python -m pip --disable-pip-version-check -q install $$($(BIN)/python tests/test_minimums.py)
	.build/minimums/bin/python -m pip --disable-pip-version-check -q install --no-deps .
	.build/minimums/bin/python -m pip check
	.build/minimums/bin/python -m examples.demo .build/minimums/demo
	.build/minimums/bin/python -m pip --disable-pip-version-check inspect --local | $(BIN)/python tests/test_minimums.py --record

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -m soak

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# The font that comes along (w2w_registry/diffusion/fonts/README.md), from Debian's package of it.
font:
	mkdir -p .build/font && cd .build/font && apt-get download xfonts-unifont=1:15.0.01-2 && dpkg-deb -x xfonts-unifont_*.deb .
	cp .build/font/usr/share/fonts/X11/misc/unifont.pcf.gz w2w_registry/diffusion/fonts/

clean:
	rm -rf $(VENV) .build build dist *.egg-info demo-out
