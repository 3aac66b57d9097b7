#!/usr/bin/env bash
# Make a virtual environment with the first Python >= 3.11 on PATH, or with $PYTHON: make_venv.sh FOLDER
set -euo pipefail
folder=$1

usable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

candidates=(${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14 python})
for python in "${candidates[@]}"; do
  if usable "$python"; then
    echo "Making $folder with $("$python" --version) ($python)"
    # --clear: a half-made or broken environment is replaced.
    exec "$python" -m venv --clear "$folder"
  fi
done

{
  echo "eocube needs Python 3.11 or newer with its venv and ensurepip modules; looked for: ${candidates[*]}."
  for python in "${candidates[@]}"; do
    if command -v "$python" >/dev/null; then
      echo "  $python: $("$python" --version 2>&1 | head -n 1)"
    else
      echo "  $python: not on PATH"
    fi
  done
  echo "Install one (with venv: on Debian also python3-venv), or name it: make PYTHON=/path/to/python3.11"
} >&2
exit 1
