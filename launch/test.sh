#!/usr/bin/env bash
# What CI runs: environment, ruff check, ruff format --check, pytest. Arguments go to pytest, TEST_PROCESSES (2) run side by side.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
ruff check .
ruff format --check .
python -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@"
