#!/usr/bin/env bash
# Several processes of one job on this machine, as on a pod: launch/local_pod.sh [--dry-run] PROCESSES FLAGS_OF_MAIN...
# CPU_DEVICES (1) devices each, where there are no others; MODULE (pix2seq_jax.main) is run; logs in LOGS (a new folder).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dry_run=""
if [ "${1:-}" = "--dry-run" ]; then
  dry_run=1
  shift
fi
processes="${1:-}"
if ! [[ "$processes" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local_pod.sh [--dry-run] PROCESSES --config=FILE --workdir=DIR ..., and not PROCESSES='$processes'" >&2
  exit 2
fi
shift
[ -n "$dry_run" ] || source launch/environment.sh
port="${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}"
logs="${LOGS:-$(mktemp -d)}"
export JAX_NUM_CPU_DEVICES="${CPU_DEVICES:-1}"
command=(python -m "${MODULE:-pix2seq_jax.main}" "$@" --coordinator="127.0.0.1:$port" --num_processes="$processes")
if [ -n "$dry_run" ]; then
  for ((i = 0; i < processes; i++)); do
    echo "JAX_NUM_CPU_DEVICES=$JAX_NUM_CPU_DEVICES ${command[*]} --process_id=$i > $logs/process-$i.log"
  done
  exit 0
fi
echo "logs: $logs/process-*.log"
pids=()
for ((i = 0; i < processes; i++)); do
  "${command[@]}" --process_id="$i" > "$logs/process-$i.log" 2>&1 &
  pids+=("$!")
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
code=0
for i in "${!pids[@]}"; do
  # A signal ends `wait` early; the process is then still on its way out.
  while true; do
    ended=0
    wait "${pids[$i]}" || ended=$?
    kill -0 "${pids[$i]}" 2>/dev/null || break
  done
  if [ "$ended" -ne 0 ]; then
    echo "process $i ended with $ended: $(tail -n 1 "$logs/process-$i.log")" >&2
    code="$ended"
  fi
done
exit "$code"
