#!/bin/bash
# Build the image from the Dockerfile without a Docker engine, on a base made by debootstrap.
#
#   tests/container/build.sh [IMAGE]        as root; needs debootstrap and buildah
#
# MIRROR (a Debian mirror) and VARIANT (cpu or cuda) come from the environment. pip's settings of this
# computer are lent to the build as a mounted file, so that none of them gets into the image. Folders
# of packages among them may hold a CPU build of torch: the CUDA variant is made from the index alone.

set -euo pipefail
cd "$(dirname "$0")/../.."
image=${1:-localhost/bh-bids:test}
base=localhost/bh-bids-base:bookworm
export BUILDAH_ISOLATION=chroot
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        bookworm "$scratch/base" ${MIRROR:+"$MIRROR"}
    rm -rf "$scratch"/base/var/cache/apt/* "$scratch"/base/var/lib/apt/lists/*
    container=$(buildah from scratch)
    cp -a "$scratch/base/." "$(buildah mount "$container")/"
    buildah commit --rm "$container" "$base"
fi

# One file with all of pip's settings, those from the environment too, and the folders they name.
python3 - "$scratch" <<'PYTHON'
import os
import re
import subprocess
import sys
from pathlib import Path

scratch = Path(sys.argv[1])
listed = subprocess.run(
    [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
).stdout
settings = {}
for name, value in re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed, re.M):
    values = value.split("\\n")
    several = name in ("find-links", "extra-index-url")
    settings[name] = list(dict.fromkeys(settings.get(name, []) + values)) if several else values
if os.environ.get("VARIANT") == "cuda":
    for name in ("find-links", "extra-index-url", "constraint"):
        values = " ".join(settings.pop(name, [])).split()
        if kept := [v for v in values if not v.startswith(("/", "file:"))]:
            settings[name] = kept
lines = ["[global]"] + [f"{name} = " + "\n    ".join(v) for name, v in settings.items()]
(scratch / "pip.conf").write_text("\n".join(lines) + "\n")
words = " ".join(" ".join(values) for values in settings.values()).split()
paths = {Path(word.removeprefix("file://")) for word in words if word.startswith(("/", "file:///"))}
# An index of files links to its neighbours.
paths |= {path.parent for path in paths if path.name == "simple"}
(scratch / "volumes").write_text("".join(f"{path}\n" for path in sorted(paths) if path.exists()))
PYTHON
volumes=(--volume "$scratch/pip.conf:/etc/pip.conf:ro")
while read -r path; do volumes+=(--volume "$path:$path:ro"); done < "$scratch/volumes"

buildah bud --layers --format docker "${volumes[@]}" \
    --build-arg BASE="$base" --build-arg VARIANT="${VARIANT:-cpu}" --tag "$image" .
buildah images "$image"
