#!/usr/bin/env bash
# The whole of pix2seq_jax on one machine: environment, data, training, evaluation, pictures. The argument is the work folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
exec python -m pix2seq_jax.demo --workdir="${1:-runs/shapes}"
