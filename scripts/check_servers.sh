#!/usr/bin/env bash
# Say which servers of scripts/servers.txt are here. A missing one is a failure when EOCUBE_CI is set; elsewhere its tests skip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

missing=0
while read -r binary package purpose; do
  if found=$(PATH="$PATH:/usr/sbin:/sbin" command -v "$binary"); then
    echo "$binary: $found ($purpose)"
  else
    echo "$binary: missing ($purpose); Debian package: $package"
    missing=1
  fi
done < <(grep -v '^#' servers.txt)

if [[ $missing == 1 && -n ${EOCUBE_CI:-} ]]; then
  echo "EOCUBE_CI is set, so every server has to be here." >&2
  exit 1
fi
