# shellcheck shell=bash
# Sourced by demo.sh and test.sh: makes .venv and installs the project once; later calls only check a stamp.
# An active virtual environment is used as it is. PYTHON chooses the interpreter (3.11 or newer).
PYTHON="${PYTHON:-python3}"
if [ -z "${VIRTUAL_ENV:-}" ]; then
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed, $("$PYTHON" --version) was found; set PYTHON=/path/to/python3.11" >&2
    # shellcheck disable=SC2317
    return 1 2>/dev/null || exit 1  # sourced by a shell of a user, it must stay open
  }
  [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi
stamp="$VIRTUAL_ENV/pix2seq_jax.stamp"
want="$(cksum setup.py) $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
  echo "Installing pix2seq_jax into $VIRTUAL_ENV (about a minute)"
  python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
  echo "$want" > "$stamp"
fi
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
