#!/usr/bin/env bash
# A Cloud TPU slice from its request to its end. Needs gcloud. See launch/README.md.
#   launch/tpu_pod.sh [--dry-run] create | setup | run FLAGS_OF_MAIN... | logs | status | delete
#   launch/tpu_pod.sh [--dry-run] babysit FLAGS_OF_MAIN...      create, set up and run, again after each preemption
# NAME, ZONE, TYPE (accelerator), VERSION (of the runtime), SPOT (1: cheaper, can be taken away), PROJECT, WAIT (seconds between
# two looks of babysit): from the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
NAME="${NAME:-pix2seq}"
ZONE="${ZONE:-us-east5-b}"
TYPE="${TYPE:-v6e-8}"
VERSION="${VERSION:-v2-alpha-tpuv6e}"
SPOT="${SPOT:-1}"
WAIT="${WAIT:-60}"
dry_run=""
if [ "${1:-}" = "--dry-run" ]; then
  dry_run=1
  shift
fi
where=(--zone="$ZONE")
[ -z "${PROJECT:-}" ] || where+=(--project="$PROJECT")

call() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

on_all() { # the command on every host of the slice
  call gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="$1"
}

create() { # a queued resource waits until there is room
  local spot=()
  [ "$SPOT" != 1 ] || spot=(--spot)
  call gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" "${spot[@]}"
}

state() { # ABSENT: there is none; UNKNOWN: gcloud could not tell
  local errors
  errors="$(mktemp)"
  if gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)' 2> "$errors"; then
    return
  fi
  if grep -q NOT_FOUND "$errors"; then
    echo ABSENT
  else
    cat "$errors" >&2
    echo UNKNOWN
  fi
}

setup() { # what is committed here, and its environment with JAX for TPUs
  local archive
  archive="$(mktemp -d)/pix2seq_jax.tar.gz"
  # Chained, because `set -e` does not count where babysit asks whether it worked. The images have Python 3.10.
  call git archive --format=tar.gz --prefix=pix2seq_jax/ --output="$archive" HEAD \
    && call gcloud compute tpus tpu-vm scp "$archive" "$NAME:" "${where[@]}" --worker=all \
    && on_all "tar xzf pix2seq_jax.tar.gz && cd pix2seq_jax && python3 -m pip install -q --user uv \
&& { [ -x .venv/bin/python ] || python3 -m uv venv -q --seed --python 3.12 .venv; } && source .venv/bin/activate \
&& pip install -q -U 'jax[tpu]' && source launch/environment.sh && pip install -q -e '.[gcs]'"
}

run() {
  [ "$#" -gt 0 ] || { echo "run needs the flags of pix2seq_jax.main: --config=... --workdir=gs://BUCKET/RUN" >&2; exit 2; }
  local flags
  flags="$(printf '%q ' "$@")"
  on_all "cd pix2seq_jax && source .venv/bin/activate && python -m pix2seq_jax.main ${flags}--distributed 2>&1 | tee -a ~/pix2seq.log; exit \${PIPESTATUS[0]}"
}

delete() {
  call gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

babysit() { # until the run is finished; a slice that was taken away is asked for again
  local failures=0
  while true; do
    if [ -n "$dry_run" ]; then
      create
      setup
      run "$@"
      delete
      return
    fi
    case "$(state)" in
      ACTIVE)
        if setup && run "$@"; then
          delete
          return
        fi
        if [ "$(state)" = ACTIVE ]; then # it was not taken away
          failures=$((failures + 1))
          if [ "$failures" -ge 3 ]; then
            delete
            echo "the run failed three times on a slice that was there; the slice is deleted, the reason is above" >&2
            exit 1
          fi
        fi
        ;;
      ABSENT) create || echo "it is asked for again in ${WAIT} s" >&2 ;;
      FAILED | SUSPENDED) delete || true ;;
    esac
    sleep "$WAIT"
  done
}

verb="${1:-}"
[ "$#" -eq 0 ] || shift
case "$verb" in
  create | setup | run | delete | babysit) "$verb" "$@" ;;
  logs) on_all "tail -n 20 ~/pix2seq.log" ;;
  status) call gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" ;;
  *)
    sed -n '2,6p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
