# `make demo` and `make test` do everything on a fresh machine: environment, installation, work.
# Nothing is written outside this directory. `make help` lists the targets.

PYTHON ?= python3
# Processes of the test run; 2 is what the time limits are set for.
JOBS ?= 2
# Passed on to pytest, such as ARGS="-k scan".
ARGS ?=

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIBRARY := mamba_export/lib/libmamba_onnxruntime.so
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The native ops are built by a rule of their own, which compiles only what changed.
EDITABLE := $(PIP) --config-settings=cmake.define.MAMBA_EXPORT_ONNXRUNTIME=OFF \
  --config-settings=cmake.define.MAMBA_EXPORT_TENSORRT=OFF --editable

# CUDA kernels in the native ops, and the TensorRT plugins made of them: AUTO is with nvcc, ON, or
# OFF. They take long to compile, so only `make plugins` asks for them by itself.
CUDA ?= $(if $(filter plugins,$(MAKECMDGOALS)),AUTO,OFF)
# What for, as CMake names it, such as CUDA_ARCHITECTURES="80-real;90a-real;120".
CUDA_ARCHITECTURES ?=
# Not empty: warnings of the native compilers are errors.
STRICT ?=

# What the libraries were last built for. A build that asks for no CUDA is content with them.
BUILT_FOR := $(if $(filter-out OFF,$(CUDA)),build/built_for.txt)

# Where ONNX Runtime's headers are; unless they are given, they are fetched from Debian.
ifeq ($(origin ONNXRUNTIME_ROOT),undefined)
ONNXRUNTIME_ROOT := $(CURDIR)/build/onnxruntime
HEADERS := $(ONNXRUNTIME_ROOT)/usr
endif

# Where TensorRT's headers are. Unless they are given, or the system has some, they are fetched from
# the package index, when there are CUDA kernels to make plugins of.
ifeq ($(origin TensorRT_ROOT),undefined)
ifeq ($(wildcard $(addsuffix /NvInferRuntime.h,/usr/include /usr/include/*-linux-gnu /usr/local/include)),)
TensorRT_ROOT := $(CURDIR)/build/tensorrt
TENSORRT_FETCHED := $(TensorRT_ROOT)/include
NVCC := $(shell command -v nvcc)
TENSORRT_HEADERS := $(if $(or $(filter ON,$(CUDA)),$(and $(filter AUTO,$(CUDA)),$(or $(NVCC),$(CUDACXX)))),$(TENSORRT_FETCHED))
endif
endif

export PIP_NO_CACHE_DIR := 1
export HF_HOME := $(CURDIR)/build/huggingface
export XDG_CACHE_HOME := $(CURDIR)/build/cache
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help venv plugins wheel demo test lint format parity bench-export bench-cpu gpu gpu-trt llama-bench soak clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16

venv: $(STAMP) ## the environment .venv with everything installed, with the native ops if they build
	@$(MAKE) --no-print-directory plugins CUDA=$(CUDA) || \
	  echo "The native ops were not built: sessions run function bodies, which is slow." >&2

# torch comes first and alone: whichever build of it the package index offers (or PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS point to) is then kept by all that depends on it.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(EDITABLE) '.[dev]'
	touch $@

$(STAMP)-bench: $(STAMP)
	$(EDITABLE) '.[dev,bench]'
	touch $@

plugins: $(LIBRARY) ## the native libraries: for ONNX Runtime, and with nvcc for CUDA and TensorRT

# Into the source tree, where an editable installation and `PYTHONPATH=.` find it.
$(LIBRARY): $(shell find CMakeLists.txt cmake plugins -type f -not -path 'plugins/tests/*') \
  $(BUILT_FOR) | $(STAMP) $(HEADERS) $(TENSORRT_HEADERS)
	cmake -S . -B build/plugins -G Ninja -D MAMBA_EXPORT_ONNXRUNTIME=ON \
	  -D ONNXRUNTIME_ROOT=$(ONNXRUNTIME_ROOT) -D MAMBA_EXPORT_CUDA=$(CUDA) \
	  $(TensorRT_ROOT:%=-D TensorRT_ROOT=%) -D MAMBA_EXPORT_TENSORRT=$(CUDA) \
	  $(if $(CUDA_ARCHITECTURES),-D "MAMBA_EXPORT_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)") \
	  $(if $(STRICT),-D CMAKE_COMPILE_WARNING_AS_ERROR=ON)
	cmake --build build/plugins
	cmake --install build/plugins --prefix . --strip
	touch $@

.PHONY: always
build/built_for.txt: always
	@mkdir -p $(@D)
	@echo 'CUDA=$(CUDA) $(CUDA_ARCHITECTURES)' | cmp -s - $@ || echo 'CUDA=$(CUDA) $(CUDA_ARCHITECTURES)' >$@

$(HEADERS):
	cmake/fetch_onnxruntime_headers.sh $(ONNXRUNTIME_ROOT)

# AUTO goes on without the plugins where the headers cannot be had.
$(TENSORRT_HEADERS): | $(STAMP)
	cmake/fetch_tensorrt_headers.sh $(TensorRT_ROOT) $(BIN)/python || test $(CUDA) = AUTO

wheel: $(STAMP) | $(HEADERS) $(TENSORRT_HEADERS) ## a wheel with the native libraries, in dist/
	ONNXRUNTIME_ROOT=$(ONNXRUNTIME_ROOT) $(TensorRT_ROOT:%=TensorRT_ROOT=%) \
	  $(BIN)/python -m pip wheel --quiet --no-deps \
	  --config-settings=cmake.define.MAMBA_EXPORT_ONNXRUNTIME=ON \
	  --config-settings=cmake.define.MAMBA_EXPORT_CUDA=$(CUDA) \
	  --config-settings=cmake.define.MAMBA_EXPORT_TENSORRT=$(CUDA) --wheel-dir dist .

demo: venv ## export both example models, run them in PyTorch and ONNX Runtime, compare
	$(BIN)/python -m examples.demo

test: venv ## all tests that need no GPU
	$(BIN)/pytest -n $(JOBS) $(ARGS)

soak: venv ## the long tests: millions of op inputs, a million tokens, every seeded bug; an hour
	$(BIN)/python -m tests.soak $(ARGS)

CPP = $(shell git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
lint: $(STAMP) ## ruff, mypy and clang-format
	$(BIN)/clang-format --dry-run -Werror $(or $(CPP),$(error make lint and make format need git))
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP) ## rewrite the sources in the house style
	$(BIN)/clang-format -i $(CPP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

parity: venv ## every family, dialect and length against transformers
	$(BIN)/python -m benchmarks --suite parity --check

bench-export: venv $(STAMP)-bench ## time and memory of an export, against their limits
	$(BIN)/python -m benchmarks --suite export --check

bench-cpu: venv $(STAMP)-bench ## speed, load and quality on this CPU, against others' programs
	cmake -S . -B build/bench -G Ninja -D MAMBA_EXPORT_TESTS=ON -D MAMBA_EXPORT_ONNXRUNTIME=OFF
	cmake --build build/bench --target kernel_bench
	$(BIN)/python -m benchmarks --suite cpu --budget 900

# Installs nothing and makes no environment: a machine with a device may have no network. Modules
# that its Python lacks can lie in build/packages (pip install --target build/packages ...). RESULTS
# is where the record goes, if not to benchmarks/results; BUDGET are seconds for everything, CASE is
# a pattern of what to measure without tests, and WHOLE=1 measures the largest models with all layers.
# ONNX Runtime's headers are fetched where that works; without them there are no sessions. Without a
# device it builds what CUDA_ARCHITECTURES names and ends with an error: nothing was tested.
gpu: ## on a machine with a GPU: build for it, test, measure; no network, about ten minutes
	$(if $(HEADERS),-test -d $(HEADERS) || timeout 60 cmake/fetch_onnxruntime_headers.sh $(ONNXRUNTIME_ROOT))
	ONNXRUNTIME_ROOT=$(ONNXRUNTIME_ROOT) \
	PYTHONPATH=$(CURDIR):$(CURDIR)/cli:$(CURDIR)/build/packages$(addprefix :,$(PYTHONPATH)) \
	  $(PYTHON) -m benchmarks.cuda --architectures "$(CUDA_ARCHITECTURES)" \
  $(if $(BUDGET),--budget "$(BUDGET)") $(if $(CASE),--case "$(CASE)") $(if $(WHOLE),--whole) \
  $(if $(RESULTS),--results "$(RESULTS)")

# The same for TensorRT, whose Python package must be there; CASE is a pattern of step names. Its
# headers are fetched where that works; TensorRT 11 needs those of its SDK (TensorRT_ROOT).
gpu-trt: ## on a machine with a GPU and TensorRT: plugins, engines, the C++ example; half an hour
	$(if $(HEADERS),-test -d $(HEADERS) || timeout 60 cmake/fetch_onnxruntime_headers.sh $(ONNXRUNTIME_ROOT))
	$(if $(TENSORRT_FETCHED),-timeout 60 cmake/fetch_tensorrt_headers.sh $(TensorRT_ROOT) $(PYTHON))
	ONNXRUNTIME_ROOT=$(ONNXRUNTIME_ROOT) \
	PYTHONPATH=$(CURDIR):$(CURDIR)/cli:$(CURDIR)/build/packages$(addprefix :,$(PYTHONPATH)) \
	  $(PYTHON) -m benchmarks.tensorrt --architectures "$(CUDA_ARCHITECTURES)" \
  --headers "$(TensorRT_ROOT)" $(if $(CASE),--case "$(CASE)") $(if $(RESULTS),--results "$(RESULTS)")

# From the source package of its Python binding, which holds a whole release of it.
LLAMA := build/llama.cpp
llama-bench: $(LLAMA)/bin/llama-bench ## llama.cpp's programs, which bench-cpu compares with; minutes

$(LLAMA)/bin/llama-bench: | $(STAMP)
	$(PIP) flit-core pathspec scikit-build-core
	$(BIN)/python -m pip download --quiet --no-deps --no-build-isolation \
	  --no-binary llama-cpp-python --dest $(LLAMA) 'llama-cpp-python==0.3.36'
	mkdir -p $(LLAMA)/source
	tar -xzf $(LLAMA)/llama_cpp_python-*.tar.gz -C $(LLAMA)/source --strip-components=1
	cmake -S $(LLAMA)/source/vendor/llama.cpp -B $(LLAMA) -G Ninja -D CMAKE_BUILD_TYPE=Release \
	  -D GGML_NATIVE=ON -D BUILD_SHARED_LIBS=OFF -D LLAMA_CURL=OFF -D LLAMA_BUILD_TESTS=OFF
	cmake --build $(LLAMA) --target llama-bench llama-quantize

clean: ## remove what was built, but not the environment
	rm -rf build dist mamba_export/lib
