#!/usr/bin/env bash
# The whole of pix2seq_jax on one machine: environment, data, training, evaluation, pictures.
#   launch/demo.sh [WORKDIR] [flags of `pix2seq demo`, as --full]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
workdir=()
if [[ $# -gt 0 && $1 != --* ]]; then
  workdir=(--workdir="$1")
  shift
fi
exec python -m pix2seq_jax.demo "${workdir[@]}" "$@"
