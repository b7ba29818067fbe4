# The commands of the README. Each works on a fresh machine: what is missing is installed first.
BUILD := build/release
JOBS := $(shell nproc)
CTEST := ctest --output-on-failure --no-tests=error

.PHONY: run build setup setup-tests test test-quick test-asan test-large bench tidy format clean

run: build
	$(BUILD)/frameshard launch run configs/quickstart.yaml output.overwrite=true

build: setup
	cmake --preset release
	cmake --build --preset release --target frameshard -j $(JOBS)

setup:
	cmake/setup/setup.sh

setup-tests: setup
	cmake/setup/setup_tests.sh

test: setup-tests
	cmake --preset release
	cmake --build --preset release -j $(JOBS)
	$(CTEST) --test-dir $(BUILD) -LE large

# Everything but the slow comparisons: for working on the code.
test-quick: build
	cmake --build --preset release -j $(JOBS)
	$(CTEST) --test-dir $(BUILD) -LE 'large|peer|cli|nodes'

# Unit and rank tests with the address and undefined-behaviour sanitizers.
test-asan: setup
	cmake --preset asan
	cmake --build --preset asan -j $(JOBS) --target frameshard_unit frameshard_ranks
	ASAN_OPTIONS=detect_leaks=0 $(CTEST) --test-dir build/asan -L 'unit|ranks'

# Folders of the real models' sizes with random weights: 16 GB of disk, 14 GB of memory.
test-large: setup-tests build
	cmake --build --preset release -j $(JOBS)
	$(CTEST) --test-dir $(BUILD) -L large

# How a step scales over the devices that are here, and the engine beside diffusers (docs/benchmarks.md).
bench: setup-tests build
	cmake --build --preset release --target frameshard_probe -j $(JOBS)
	$(BUILD)/frameshard bench
	build/venv-test/bin/python tests/bench/side_by_side.py

tidy: build
	cmake/setup/tidy.sh $(BUILD)

format:
	git ls-files '*.h' '*.cpp' '*.cu' | xargs clang-format -i

clean:
	rm -rf build/release build/debug build/asan
