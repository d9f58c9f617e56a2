# Koala: `make demo` shows the whole path, `make test` and `make lint` check it. Each sets up .venv by itself.
# Another Python: make demo PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.koala-ready
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
PYTEST_ARGS ?=
# The files of tests are shared out to as many processes as there are cores, four at most.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile

# llama.cpp without its multimodal library and its HTTPS client, which Koala does not use: a third less to compile.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF

.PHONY: help setup demo test test-all lint format clean

help:
	@echo "make demo      data, training, GGUF and a reply, on the CPU, without a network (about 3 minutes once installed)"
	@echo "make test      the tests that are fast; make test-all runs the slow ones too"
	@echo "make lint      ruff's checks and format; make format applies them"
	@echo "make clean     remove what make demo made (outputs/demo)"

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Koala needs Python 3.10 to 3.13 and found none; install one \
	(Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make virtual \
	environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import llama_cpp' 2>/dev/null || .ci/check-compiler
	@echo "installing into $(VENV); llama.cpp is compiled the first time, which takes 5 to 15 minutes on two cores"
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt torch -e '.[all]'
	@touch $@

demo: $(READY)
	$(BIN)/python demo.py

test: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-all: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) -m "slow or not slow" $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf outputs/demo
