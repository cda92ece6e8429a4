#!/bin/bash
# Run the built image as clusters do: another user, no home, nothing writable but the folders given, no
# network, an empty environment.
#
#   tests/container/run.sh [IMAGE]          as root, after build.sh; needs buildah and bubblewrap
#
# VARIANT=cuda in the environment for an image that was built so; without a GPU it runs on the CPU.
#
# bubblewrap makes the container: what it does (a read-only root, name spaces, bound folders) is what
# Apptainer's --containall --cleanenv --no-home does.

set -euo pipefail
cd "$(dirname "$0")/../.."
image=${1:-localhost/bh-bids:test}
export BUILDAH_ISOLATION=chroot
scratch=$(mktemp -d)
container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
trap 'buildah rm "$container" > /dev/null; rm -rf "$scratch"' EXIT

failed=0
report() { # NAME EXIT_CODE SECONDS
    if (($2 == 0)); then echo "ok      $1 ($3 s)"; else echo "FAILED  $1 (exit code $2)" && failed=1; fi
}
setting() { buildah inspect --type image --format "$1" "$image"; }

# --- the image itself
mapfile -t entrypoint < <(setting '{{range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}' | sed '/^$/d')
mapfile -t image_environment < <(setting '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' | sed '/^$/d')
echo "image    $(buildah images --format '{{.Size}}' "$image"), $(du -sm "$root/opt/bh-bids" | cut -f1) MB of it bh-bids"
echo "entry    ${entrypoint[*]}, user $(setting '{{.OCIv1.Config.User}}')"
check() { # NAME COMMAND...
    local name=$1 && shift
    if "$@"; then report "$name" 0 0; else report "$name" 1 0; fi
}
check "absolute entry point" test "${entrypoint[0]:0:5}" = /opt/
check "default user is not root" test "$(setting '{{.OCIv1.Config.User}}')" = bh-bids
check "labels" test -n "$(setting '{{index .OCIv1.Config.Labels "org.opencontainers.image.version"}}')"
check "no compiler" test ! -e "$root/usr/bin/gcc" -a ! -e "$root/usr/bin/cc"
check "no pip, no settings of it" test ! -e "$root/opt/bh-bids/bin/pip" -a ! -e "$root/etc/pip.conf" \
    -a ! -e "$root/opt/bh-bids/pip.conf" -a ! -e "$root/root/.config/pip"
check "no setting of pip in the environment" bash -c '! printf "%s\n" "$@" | grep -q ^PIP_' _ \
    "${image_environment[@]}"
libraries() { compgen -G "$root/opt/bh-bids/lib/python3*/site-packages/nvidia_cuda_runtime*" || true; }
if [[ ${VARIANT:-cpu} == cuda ]]; then
    check "libraries of one CUDA version" test "$(libraries | wc -l)" = 1
else
    check "no CUDA" test -z "$(libraries)"
fi

# --- a dataset: one small simulated participant
inside() { # USER [VARIABLE=VALUE...] -- PROGRAM ARGUMENTS
    local user=$1 variables=() && shift
    while [[ $1 != -- ]]; do variables+=(--setenv "${1%%=*}" "${1#*=}") && shift; done
    shift
    bwrap --ro-bind "$root" / --dev /dev --perms 1777 --tmpfs /dev/shm --proc /proc \
        --perms 1777 --tmpfs /tmp --tmpfs /mnt \
        --ro-bind "$scratch/bids" /mnt/bids --bind "$scratch/$user/out" /mnt/out \
        --bind "$scratch/$user/work" /mnt/work --unshare-net --unshare-pid --unshare-ipc \
        --chdir /tmp --clearenv "${variables[@]}" \
        /usr/bin/setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs "$@"
}
for user in 4711 10001; do
    mkdir -p "$scratch/$user/out" "$scratch/$user/work"
    chown "$user:$user" "$scratch/$user/out" "$scratch/$user/work"
done
mkdir -p "$scratch/make"
bwrap --ro-bind "$root" / --dev /dev --proc /proc --tmpfs /tmp --tmpfs /mnt --bind "$scratch/make" /mnt \
    --unshare-net --clearenv /opt/bh-bids/bin/bh-simulate /mnt/bids --participants 1 --sites siteB \
    --voxel-size "${VOXEL_SIZE:-1.5}" --quiet
mv "$scratch/make/bids" "$scratch/bids"
chmod -R a+rX "$scratch"
before=$(find "$scratch/bids" -type f -exec sha256sum {} + | sort)

# --- the conditions
attempt() { # NAME USER [VARIABLE=VALUE...] -- ARGUMENTS
    local name=$1 user=$2 variables=() code=0 start=$SECONDS && shift 2
    while [[ $1 != -- ]]; do variables+=("$1") && shift; done
    shift
    inside "$user" "${variables[@]}" -- "${entrypoint[@]}" "$@" > "$scratch/log" 2>&1 || code=$?
    if ((code)) || [[ -n ${SHOW:-} ]]; then sed 's/^/        | /' "$scratch/log"; fi
    report "$name" "$code" "$((SECONDS - start))"
}
participant=(/mnt/bids /mnt/out participant --work-dir /mnt/work --nprocs "${NPROCS:-2}" --omp-nthreads 1)
for word in --version --help; do
    attempt "$word: any user, empty environment, read-only root, no network" 4711 -- "$word"
    attempt "$word: any user, home that cannot be written" 4711 HOME=/root -- "$word"
    attempt "$word: default user, the image's environment" 10001 "${image_environment[@]}" -- "$word"
done
SHOW=1 attempt "full run: any user, no HOME, empty environment, read-only root and input, no network" \
    4711 -- "${participant[@]}" --resource-monitor ${FULL_OPTIONS:-}
echo "work     $(du -sm "$scratch/4711/work" | cut -f1) MB of intermediate results," \
    "$(du -sm "$scratch/4711/out" | cut -f1) MB of results"
if [[ -n ${KEEP:-} ]]; then cp -r "$scratch/4711/out" "$KEEP"; fi
attempt "again: nothing is left to do" 4711 -- "${participant[@]}"
attempt "group level, without the dataset's raw data" 4711 -- /mnt/bids /mnt/out group
if [[ -z ${QUICK:-} ]]; then
    rm -rf "$scratch"/4711/{out,work}/*
    attempt "sloppy run: any user, home that cannot be written" 4711 HOME=/root -- \
        "${participant[@]}" --sloppy --anat-only
fi
SHOW=1 attempt "sloppy run: default user, the image's environment" 10001 "${image_environment[@]}" -- \
    "${participant[@]}" --sloppy --low-mem --clean-workdir
check "--clean-workdir left no images" test -z "$(find "$scratch/10001/work" -name '*.nii.gz')"
check "results are there" test -s "$scratch/10001/out/sub-01.html"
check "the input is as it was" test "$before" = \
    "$(find "$scratch/bids" -type f -exec sha256sum {} + | sort)"
exit "$failed"
