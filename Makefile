# `make` alone prints this help. Every target sets up what it needs, inside this checkout.

PYTHON ?= python3
# The exporter and its tests need torch; the server and the client never do.
TORCH ?= torch==2.13.0
MODEL ?= openai/clip-vit-base-patch32
PRECISION ?= fp32
OUT ?= triton_models
# What `make demo` embeds with: onnxruntime, or a real Triton that it starts.
ENCODER ?= onnxruntime

VENV := .venv
DEV := .venv-dev
# NVIDIA's tritonserver, the CPU build in a wheel on PyPI. It brings the python backend alone.
TRITON := .triton
TRITON_WHEEL := nvidia-pytriton==0.7.0
# `make triton` serves the demo model unless MODEL is given.
TRITON_MODEL := $(if $(filter command line environment,$(origin MODEL)),$(MODEL),demo)
TRITON_MODELS := build/triton/$(subst /,--,$(TRITON_MODEL))
PIP := -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PROTOC := -m grpc_tools.protoc -I proto -I proto/third_party clipsearch/v1/filter.proto clipsearch/v1/image_search.proto

.DEFAULT_GOAL := help
.PHONY: help demo serve triton test test-long test-row bench bench-quick check format proto docs export-models train-demo lock clean

help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

ifeq ($(ENCODER),triton)
demo: $(DEV)/ready $(TRITON)/ready build/triton/demo/model_card.json
	@$(DEV)/bin/python demo/run.py --triton $(TRITON) build/triton/demo
else
demo: $(VENV)/ready ## Add the sample pictures and find some by describing them [ENCODER=triton]
	@$(VENV)/bin/python demo/run.py
endif

serve: $(VENV)/ready ## Run the server with the demo model until Ctrl-C; its data is in data/demo
	@$(VENV)/bin/clipsearch-server --data-dir data/demo

triton: $(VENV)/ready $(DEV)/ready $(TRITON)/ready $(TRITON_MODELS)/model_card.json ## Run a real Triton on this CPU, without Docker, until Ctrl-C [MODEL=demo]
	@$(DEV)/bin/python demo/triton.py $(TRITON) $(TRITON_MODELS)

build/triton/%/model_card.json: $(DEV)/ready
	$(DEV)/bin/python -m clipsearch_export $(subst --,/,$*) --backend python --out $(@D)

test: $(DEV)/ready $(TRITON)/ready ## Run every test but the long ones
	$(DEV)/bin/python -m pytest -m "not by_the_clock and not long" --numprocesses=auto --dist=loadfile --no-loadscope-reorder
	$(DEV)/bin/python -m pytest -m by_the_clock $$(grep -rl --include='test_*.py' by_the_clock tests)

test-long: $(DEV)/ready ## Run the tests that take a minute each: 10,000 files, and what installs from the package index
	$(DEV)/bin/python -m pytest -m long $$(grep -rl --include='test_*.py' mark.long tests)

test-row: $(DEV)/ready $(TRITON)/ready ## Run the tests of a row of docs/reliability.md [ROW=38]
	$(DEV)/bin/python -m pytest -v -k "test_row_$(ROW)_"

bench: $(DEV)/ready ## Measure speed against baselines, into bench/results: 8 minutes on 2 idle cores
	@PYTHONPATH=bench $(DEV)/bin/python -m speed

bench-quick: $(DEV)/ready ## The same in 2 to 3 minutes, with fewer rounds, into build/bench
	@PYTHONPATH=bench $(DEV)/bin/python -m speed --quick

check: $(DEV)/ready ## Lint; check types, arrows, the contract and that what is generated is fresh
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	cd proto && $(CURDIR)/$(DEV)/bin/buf lint
	@$(MAKE) --no-print-directory stubs-in-build
	diff -r -x __init__.py -x __pycache__ build/stubs/clipsearch/v1 client/clipsearch/v1
	$(DEV)/bin/python -m clipsearch_server.configuration.reference | diff - docs/settings.md

format: $(DEV)/ready ## Format the code and mend what can be mended
	$(DEV)/bin/ruff check --fix
	$(DEV)/bin/ruff format

proto: $(DEV)/ready ## Generate the stubs from the contract
	$(call generate,client)

docs: $(DEV)/ready ## Write docs/settings.md from the settings
	$(DEV)/bin/python -m clipsearch_server.configuration.reference > docs/settings.md

.PHONY: stubs-in-build
stubs-in-build:
	@rm -rf build/stubs && mkdir -p build/stubs
	$(call generate,build/stubs)

define generate
PATH=$(CURDIR)/$(DEV)/bin:$$PATH $(DEV)/bin/python $(PROTOC) \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1)
endef

export-models: $(DEV)/ready ## Export MODEL (hub id, local folder or demo) in PRECISION to OUT
	$(DEV)/bin/python -m clipsearch_export $(MODEL) --precision $(PRECISION) --out $(OUT)

train-demo: $(DEV)/ready ## Train the demo model anew (hours; see docs/demo-model.md)
	$(DEV)/bin/python $(PIP) "$(TORCH)" -e "export[demo]"
	$(DEV)/bin/python -m clipsearch_export.demo train --work-dir build/demo-model

lock: ## Write constraints.txt: the newest versions that fit, for CI and everybody
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet \
		"$(TORCH)" -e "client[cli,evaluate,parquet]" -e "server[cpu]" -e export -r requirements-dev.txt
	build/lock/bin/python -m pip freeze --exclude-editable | grep -v -e '^torch==' -e ' @ ' > constraints.txt

clean: ## Remove what the targets made, but for the environments
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The environments. They are made anew when what they hold changes.
$(VENV)/ready: client/pyproject.toml server/pyproject.toml constraints.txt
	@echo "setting up $(VENV): the server and the command (about half a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python $(PIP) -e "client[cli]" -e "server[cpu]"
	@touch $@

$(DEV)/ready: client/pyproject.toml server/pyproject.toml export/pyproject.toml requirements-dev.txt constraints.txt
	@echo "setting up $(DEV): the server, the command, the exporter and the tools (minutes)"
	@$(PYTHON) -m venv --clear $(DEV)
	@$(DEV)/bin/python $(PIP) "$(TORCH)" -e "client[cli,evaluate,parquet]" -e "server[cpu]" -e export -r requirements-dev.txt
	@touch $@

# In a folder of its own, without what it depends on: its numpy is older than ours. The python
# backend looks for the stub of this Python's version beside itself.
$(TRITON)/ready: $(DEV)/ready
	@echo "setting up $(TRITON): NVIDIA's tritonserver (55 MB)"
	@rm -rf $(TRITON)
	@$(PYTHON) -m pip --disable-pip-version-check install --quiet --no-deps --target $(TRITON) $(TRITON_WHEEL)
	@cd $(TRITON)/pytriton/tritonserver && cp python_backend_stubs/$$($(abspath $(DEV))/bin/python -c \
		'import sys; print("%d.%d" % sys.version_info[:2])')/triton_python_backend_stub backends/python/
	@touch $@
