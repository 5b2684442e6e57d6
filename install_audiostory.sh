#!/usr/bin/env bash
# Installs AudioStory and all it needs. Safe to run again: it ends in a second when nothing is missing.
#   bash install_audiostory.sh          what telling, training and scoring need
#   bash install_audiostory.sh --dev    and the test tools
# It installs into the active environment (venv or conda), else into .venv beside this file.
# TORCH_VERSION=2.11.0 bash install_audiostory.sh    keeps a torch that your GPU driver needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }
fail() { echo "install_audiostory.sh: $*" >&2; exit 2; }

extras=""
for argument in "$@"; do
    case "$argument" in
        --dev) extras="dev" ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown argument $argument" ;;
    esac
done

environment="${VIRTUAL_ENV:-${CONDA_PREFIX:-$PWD/.venv}}"
python="$environment/bin/python"
if [ ! -x "$python" ]; then
    command -v python3 >/dev/null || fail "no python3 on the PATH; install Python 3.10 or newer"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$(python3 --version) found, 3.10 or newer needed"
    echo "making $environment"
    python3 -m venv "$environment" || fail "python3 could not make a virtual environment (Debian and Ubuntu: apt install python3-venv)"
fi

# Everything there already? The stamp says which files were installed from, the metadata whether it all still is.
stamp="$environment/.audiostory-installed${extras:+-$extras}"
fingerprint="$(cat pyproject.toml install_audiostory.sh | cksum) ${TORCH_VERSION:-}"
satisfied() {
    [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ] && "$python" -I - "$extras" "$PWD" <<'PYTHON'
import json, sys
from importlib.metadata import PackageNotFoundError, distribution, version
from packaging.requirements import Requirement

extra, here = sys.argv[1:]
try:
    ours = distribution("audiostory")
    if json.loads(ours.read_text("direct_url.json") or "{}").get("url") != f"file://{here}":
        sys.exit(1)  # installed from another copy of the sources
    for requirement in map(Requirement, ours.requires or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if not requirement.specifier.contains(version(requirement.name), prereleases=True):
            sys.exit(1)
except PackageNotFoundError:
    sys.exit(1)
PYTHON
}
if satisfied 2>/dev/null; then
    echo "AudioStory is installed in $environment; nothing to do"
    exit 0
fi

# torch is pinned exactly: a matching one is kept, and no other build is fetched beside it.
"$python" -m pip install --quiet "torch==${TORCH_VERSION:-2.13.0}" packaging
"$python" -m pip install --quiet "torch==${TORCH_VERSION:-2.13.0}" --editable ".${extras:+[$extras]}"
echo "$fingerprint" >"$stamp"
echo "AudioStory is installed in $environment"
