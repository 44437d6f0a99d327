#!/usr/bin/env bash
# What CI runs: environment, ruff check, ruff format --check, pytest. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
ruff check .
ruff format --check .
python -m pytest "$@"
