# What a newcomer runs. Every target does its own set-up (scripts/setup.sh).
VENV := .venv
# One place for what is built, whatever the environment says.
export CARGO_TARGET_DIR := $(CURDIR)/target
PYTHON := $(VENV)/bin/python
RELEASE := target/release

.PHONY: demo test test-torch test-cuda bench bench-cuda cuda-bundle lint kernels docs setup library install install-built uninstall portable abi clean

## The main job: an engine quantizes its own model through libmq; one table.
demo: library
	$(MAKE) --no-print-directory -C examples/tiny_llama demo
	@for state in target/demo/*+*.json; do \
	    PYTHONPATH=bindings/python MQ_LIBRARY=$(RELEASE)/libmq.so $(PYTHON) -m mq.report "$$state" \
	        -o "$${state%.json}.html" && echo "a page about a search: $${state%.json}.html"; \
	done

## Everything that can be checked without a GPU.
test: setup library
	scripts/test.sh

## mq.torch, with PyTorch and transformers in an environment of their own (several gigabytes).
test-torch: library
	scripts/test_torch.sh

## What only a GPU can prove: kernels, models, graphs, compute-sanitizer. Skips nothing.
test-cuda:
	scripts/test_cuda.sh

## Taps on a GPU against a copy of the same bytes, and PyTorch; target/bench/cuda*.json.
bench-cuda:
	scripts/bench_cuda.sh

## Both of these, for a GPU machine that has no Rust: target/cuda-bundle.tar.xz, and in it run.sh.
cuda-bundle:
	scripts/cuda_bundle.sh
	tar -C target -cf - cuda-bundle | xz -T0 --lzma2=preset=1,dict=128MiB >target/cuda-bundle.tar.xz

## Ratios against a plain copy, a product of matrices, PyTorch and the reference; target/bench/report.json.
bench: library
	scripts/bench.sh

## Formatting, lints, licences.
lint: setup
	scripts/lint.sh

## The CUDA kernels, compiled into the checked-in fatbin (docs/cuda.md); needs no GPU.
kernels: setup
	cargo xtask kernels

## The documentation as a site, target/docs; a broken link fails.
docs: library
	scripts/setup.sh $(VENV) docs
	scripts/docs.sh

## Headers, libraries, pkg-config and CMake files: make install PREFIX=/usr/local [DESTDIR=...] [LIBDIR=lib]
## [CARGOFLAGS=--no-default-features].
install:
	cargo build --release --locked --lib $(CARGOFLAGS)
	scripts/install.sh install

install-built:
	scripts/install.sh install

uninstall:
	scripts/install.sh uninstall

## A library and a wheel for every Linux from glibc 2.17 on; target/portable.
portable: setup
	scripts/portable.sh

## Refreshes abi/mq.abi, which the tests compare with the header.
abi: setup
	tests/packaging/abi.sh --refresh

library: setup
	cargo build --release --locked

setup:
	scripts/setup.sh $(VENV)

clean:
	cargo clean
	rm -rf $(VENV)
