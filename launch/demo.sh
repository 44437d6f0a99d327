#!/usr/bin/env bash
# The whole of pix2seq_jax on one machine: environment, data, training, evaluation, pictures. The argument is the work folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
# Large pages: a step allocates the same large arrays again and again. What the user set stays.
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
workdir="${1:-runs/shapes}"
python -m pix2seq_jax.data.shapes --out=data/shapes
python -m pix2seq_jax.main --config=configs/multitask.py:shapes --workdir="$workdir" || {
  code=$?
  if [ "$code" -eq 143 ]; then  # 128 + SIGTERM: saved, but not finished
    echo "interrupted by SIGTERM: what was trained is saved in $workdir; run the same command to go on" >&2
  fi
  exit "$code"
}
python -m pix2seq_jax.predict --workdir="$workdir" --images='data/shapes/val/*0.jpg' --limit=12 --out="$workdir/predictions"
echo
echo "metrics      $workdir/metrics.json"
echo "pictures     $workdir/pictures (prediction beside ground truth)"
echo "predictions  $workdir/predictions (boxes, masks, keypoints, captions; predictions.json)"
echo "curves       tensorboard --logdir=$workdir"
