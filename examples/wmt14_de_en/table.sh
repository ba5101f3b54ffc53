#!/usr/bin/env bash
# The cells of the table that are missing, and the table. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/wmt14_de_en/table.sh [--models MODEL ...] [--seeds SEED ...] [--sizes SIZE ...]
                                     [--jobs N] [--out FOLDER]

Runs run.sh for every model, seed and size that is not finished, then `fairseq-mem report`.

  --models   default: baseline and the paper's MemTransformer 5/10/20, MemCtrl 20, MemCtrl Shared
             20, MemBottleneck 10/20
  --seeds    default: 1 2 3
  --sizes    base (default), small, trial
  --jobs N   so many at a time (default 1), sharing this machine's GPUs or cores
  --out      where the table goes (default RUNS/report)

DATA, RUNS and the other variables of run.sh are passed on. Stop it at any point and run it again: it
continues. A cell that fails is named at the end and doesn't stop the others; run again to retry it.
HELP
}

fail() {
    echo "table.sh: $*" >&2
    exit 1
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || fail "bash $BASH_VERSION is too old; 5.1 or newer is needed"

models=() seeds=() sizes=() jobs=() folder=()
defaults=(baseline mem-5 mem-10 mem-20 mem-ctrl-20 mem-ctrl-shared-20 mem-bottleneck-10 mem-bottleneck-20)
into=''
for word in "$@"; do
    case $word in
    -h | --help) usage && exit ;;
    --models | --seeds | --sizes | --jobs) into=${word#--} ;;
    --out) into=folder ;;
    -*) fail "unknown option $word; see --help" ;;
    *)
        [ -n "$into" ] || fail "unknown argument $word; see --help"
        declare -n list=$into
        list+=("$word")
        ;;
    esac
done
[ ${#models[@]} -gt 0 ] || models=("${defaults[@]}")
[ ${#seeds[@]} -gt 0 ] || seeds=(1 2 3)
[ ${#sizes[@]} -gt 0 ] || sizes=(base)
at_once=${jobs[0]:-1}
[[ $at_once =~ ^[1-9][0-9]*$ ]] || fail "--jobs $at_once: give a whole number above 0"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
runs=${RUNS:-$here/runs}
venv=${VENV:-$here/../../.venv}
[ ! -d "$venv/bin" ] || PATH="$(cd "$venv/bin" && pwd):$PATH"
command -v fairseq-mem >/dev/null || fail "fairseq-mem is not there; run 'make install', or set VENV"
out=${folder[0]:-$runs/report}

# The machine's GPUs, or its cores, are shared out; what the user has set stays.
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
[ "$gpus" -gt 0 ] || export GPUS=${GPUS:-0} # so that run.sh needs not ask
if [ "$at_once" -gt 1 ] && [ "$gpus" -eq 0 ] && [ -z "${OMP_NUM_THREADS:-}" ]; then
    cores=$(getconf _NPROCESSORS_ONLN)
    export OMP_NUM_THREADS=$((cores > at_once ? cores / at_once : 1))
fi

devices_of() { # the GPUs of place $1
    local each=$((gpus / at_once > 0 ? gpus / at_once : 1)) first
    first=$(($1 * each % gpus))
    seq -s , "$first" $((first + each - 1))
}

declare -A place_of=() cell_of=() taken=() # of a process; whether a place is in use
failures=()

cells_running() { echo ${#cell_of[@]}; }

wait_for_one() {
    local process status=0
    wait -n -p process || status=$?
    [ -n "${process:-}" ] || return 0
    [ $status -eq 0 ] || failures+=("${cell_of[$process]}")
    unset "taken[${place_of[$process]}]" "cell_of[$process]" "place_of[$process]"
}

# shellcheck disable=SC2329 # by the trap
stop() {
    trap '' INT TERM
    [ ${#cell_of[@]} -eq 0 ] || kill "${!cell_of[@]}" 2>/dev/null || true
    wait || true
    echo "table.sh: stopped; run it again to continue" >&2
    exit 130
}
trap stop INT TERM

start() { # size, model, seed
    local place=0
    while [ -n "${taken[$place]:-}" ]; do place=$((place + 1)); done
    (
        if [ "$at_once" -gt 1 ] && [ "$gpus" -gt 0 ] && [ -z "${CUDA_VISIBLE_DEVICES:-}" ]; then
            CUDA_VISIBLE_DEVICES=$(devices_of "$place")
            export CUDA_VISIBLE_DEVICES
        fi
        SIZE=$1 exec "$here/run.sh" "$2" "$3"
    ) &
    taken[$place]=yes place_of[$!]=$place cell_of[$!]="$1, $2, seed $3"
}

for size in "${sizes[@]}"; do
    for seed in "${seeds[@]}"; do
        for model in "${models[@]}"; do
            [ "$(cells_running)" -lt "$at_once" ] || wait_for_one
            start "$size" "$model" "$seed"
        done
    done
done
while [ "$(cells_running)" -gt 0 ]; do wait_for_one; done

status=0
fairseq-mem report "${sizes[@]/#/$runs/}" --out "$out" \
    --expect-models "${models[@]}" --expect-seeds "${seeds[@]}" || status=$?
if [ ${#failures[@]} -gt 0 ]; then
    printf 'table.sh: failed: %s\n' "${failures[@]}" >&2
    echo "table.sh: the reason is in failed.txt of each run; run again to retry" >&2
    exit 1
fi
exit $status
