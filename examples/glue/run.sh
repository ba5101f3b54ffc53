#!/usr/bin/env bash
# One sentence encoder on one task: fine-tune it, predict, score. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/glue/run.sh TASK MODEL SEED

TASK is what prepare.sh prepared: one of GLUE's, or the name of your own. MODEL is one of
  baseline               the pre-trained model as it is
  mem-N                  with N memory tokens: MemTransformer
  mem-ctrl-N             MemCtrl
  mem-ctrl-shared-N      MemCtrl Shared
  mem-bottleneck-N       MemBottleneck
and, but for baseline, may end in
  -head                  the head reads memory (maximum and mean), not <s>
  -unread                the same, and the text may not read memory: a control
  -frozen                the slots stay as they were initialised: a control
  -positions             memory takes the positions behind <s>, as in the authors' code
  -only                  nothing but memory, its controllers and the head is trained

Fine-tunes the pre-trained model, takes the checkpoint that validated best, predicts the test set (of
GLUE's tasks the development set) and writes RUNS/TASK/MODEL/seed-SEED/result.json, which
`fairseq-mem report` reads. Models of a task get the same flags but those of their memory. Stop it at
any point and run it again: it continues.

  START=FOLDER     the pre-trained model, by import-bert or pretrain.sh (default work/bert)
  DATA=FOLDER      where the tasks are (default examples/glue/work/data)
  RUNS=FOLDER      the runs (default examples/glue/runs)
  SIZE=NAME        the pre-trained model's name in tables (default: START's)
  SCHEDULE=NAME    authors: AdamW 2e-5, halved after 3 epochs without gain, patience 10 (default)
                   quick: 1e-4, down to 0 over UPDATES updates of 64 sentences, about four validations
  UPDATES=N        at most so many updates (default: authors 100000, quick 400)
  BATCH=N          sentences of an update (default: the task's; of your own 32)
  ROWS=N           sentences that are computed at a time (default: all of an update). With fewer, those
                   of similar length go together: 1.5 times as fast on a CPU, which pads half of a batch (a
                   model as large as MiniLM), slower with a tiny model
  LR=NUMBER        the learning rate
  GPUS=N           devices (default: those of this machine; 0 = CPU). More than one is used for metrics
                   that begin with accuracy alone: fairseq cannot add up what it needs for the others
  FP16=0           full precision on GPUs too
  KEEP_MODEL=0     remove the model when it is scored
  TRAIN_FLAGS=...  more flags for fairseq-train
  DRY_RUN=1        show the commands only
  VENV=FOLDER      the environment of `make install` (default .venv)
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
[ $# -eq 3 ] || fail "give a task, a model and a seed, for instance: run.sh RTE mem-10 1 (see --help)"
task=$1 model=$2 seed=$3
whole_number "seed " "$seed"

# ------------------------------------------------------------ the settings

data=examples/glue/work/data runs=examples/glue/runs start=examples/glue/work/bert venv=.venv
[ -z "${DATA:-}" ] || data=$(absolute_path "$DATA")
[ -z "${RUNS:-}" ] || runs=$(absolute_path "$RUNS")
[ -z "${START:-}" ] || start=$(absolute_path "$START")
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# Short, and the same on every machine, for what lies in the repository.
data=${data#"$PWD"/} runs=${runs#"$PWD"/} start=${start#"$PWD"/}
use_environment "$venv" fairseq-train fairseq-mem
data=$data/$task
[ -e "$data/settings.txt" ] ||
    fail "$data is no data of prepare.sh (no settings.txt in it); run prepare.sh, or set DATA"
[ -e "$start/model.pt" ] && [ -e "$start/flags.txt" ] ||
    fail "$start has no model.pt and flags.txt; run fairseq-mem import-bert, or set START"
cmp -s "$start/dict.txt" "$data/input0/dict.txt" ||
    fail "$data was made with another dictionary than that of $start; run prepare.sh with it"
gpus=${GPUS:-$(count_gpus)}
whole_number GPUS= "$gpus"
devices=$((gpus > 0 ? gpus : 1))
setting() { sed -n "s/^$1 //p" "$data/settings.txt"; }
read -ra metrics <<<"$(setting metrics)"

# ------------------------------------------------------------ the model

if [[ $model =~ ^mem(-ctrl|-ctrl-shared|-bottleneck)?-([1-9][0-9]*)((-(head|unread|frozen|positions|only))*)$ ]]; then
    update=${BASH_REMATCH[1]#-} tokens=${BASH_REMATCH[2]} more=${BASH_REMATCH[3]}
    update=${update:-shared}
    case $update in
    shared) label="MemTransformer $tokens" ;;
    ctrl) label="MemCtrl $tokens" ;;
    ctrl-shared) label="MemCtrl Shared $tokens" ;;
    bottleneck) label="MemBottleneck $tokens" ;;
    esac
    # --memory-grow: more slots than the pre-trained encoder has, if it has some
    memory=(--memory-tokens "$tokens" --memory-update "$update" --memory-grow)
    case $more in *-head* | *-unread*) memory+=(--memory-head memory) label+=", head on memory" ;; esac
    case $more in *-unread*) memory+=(--memory-unread) label+=", unread" ;; esac
    case $more in *-frozen*) memory+=(--memory-frozen) label+=", frozen" ;; esac
    case $more in *-positions*) memory+=(--memory-positions) label+=", positions" ;; esac
    case $more in *-only*) memory+=(--memory-only) label+=", trained alone" ;; esac
elif [ "$model" = baseline ]; then
    label=baseline tokens=0 update=shared memory=(--memory-tokens 0)
else
    fail "there is no model $model; see --help"
fi
read -ra pretrained <"$start/flags.txt"

# ------------------------------------------------------------ how it is trained

batch=32 every=epoch # the authors' table; every: updates between validations
case $task in
CoLA | SST-2) batch=128 every=250 ;;
STS-B) batch=128 ;;
MRPC) batch=100 ;;
QQP | QNLI | MNLI) batch=64 every=250 ;;
esac
rows=$(setting rows)
schedule=${SCHEDULE:-authors}
case $schedule in
authors) updates=100000 lr=2e-5 ;;
quick) updates=400 lr=1e-4 batch=64 ;;
*) fail "SCHEDULE=$schedule: give authors or quick" ;;
esac
batch=${BATCH:-$batch} updates=${UPDATES:-$updates} lr=${LR:-$lr}
positive_number BATCH= "$batch"
positive_number UPDATES= "$updates"
[[ $lr =~ ^[0-9.]+(e-?[0-9]+)?$ ]] || fail "LR=$lr: give a number"
case $schedule in
authors)
    schedule_flags=(
        --lr "$lr" --lr-scheduler reduce_lr_on_plateau --lr-shrink 0.5 --lr-patience 3 --patience 10
    )
    checkpoints=(--no-last-checkpoints --keep-last-epochs 1)
    [ "$every" = epoch ] || checkpoints+=(
        --validate-interval-updates "$every" --save-interval-updates "$every" --keep-interval-updates 1
    )
    ;;
quick)
    schedule_flags=(
        --lr "$lr" --lr-scheduler polynomial_decay --warmup-updates $((updates / 16))
        --total-num-update "$updates"
    )
    epochs=$((updates * batch / ${rows%% *} / 4))
    epochs=$((epochs > 0 ? epochs : 1))
    checkpoints=(
        --validate-interval "$epochs" --save-interval "$epochs" --no-epoch-checkpoints
        --no-last-checkpoints --no-save-optimizer-state
    )
    ;;
esac
case ${metrics[0]} in
accuracy) best=accuracy report=() ;;
F1) best=f1 report=(--report-acc-and-f1) ;;
Matthews) best=mcc report=(--report-mcc) ;;
Pearson) best=pearson report=(--report-pearson-and-spearman) ;;
esac
# With several GPUs fairseq adds up what its criterion reports for these metrics, which are lists.
[ ${#report[@]} -eq 0 ] || devices=1
regression=()
[ "$(setting kind)" = classification ] || regression=(--regression-target)
device=(--fp16) prediction_device=()
[ "${FP16:-1}" != 0 ] || device=()
[ "$gpus" -gt 0 ] || device=(--cpu) prediction_device=(--cpu)
batches=(--batch-size "$((batch / devices > 0 ? batch / devices : 1))")
if [ -n "${ROWS:-}" ]; then # training text is sorted by length
    positive_number ROWS= "$ROWS"
    [ $((batch % (ROWS * devices))) -eq 0 ] || fail "ROWS=$ROWS: give what divides BATCH=$batch, on each device"
    batches=(--batch-size "$ROWS" --update-freq "$((batch / devices / ROWS))" --no-shuffle)
fi
device+=(--distributed-world-size "$devices") # fairseq's own default is all that the machine has
read -ra more_flags <<<"${TRAIN_FLAGS:-}"

run=$runs/$task/$model/seed-$seed
train=(
    fairseq-train "$data" --user-dir fairseq_mem --task sentence_prediction --num-classes "$(setting classes)"
    --init-token 0 "${regression[@]}"
    # the model: the pre-trained one, and its memory
    --finetune-from-model "$start/model.pt" "${pretrained[@]}" --pooler-dropout 0.1 "${memory[@]}"
    # how it learns, and how long
    --criterion sentence_prediction "${report[@]}" --optimizer adam_fused --adam-betas '(0.9, 0.999)'
    --adam-eps 1e-8 --weight-decay 0.01 --clip-norm 1 "${schedule_flags[@]}" --max-update "$updates"
    # batches; --update-epoch-batch-itr, so that a resumed training sees those of the uninterrupted
    # one (fairseq counts anew, though, how long it has had patience)
    "${batches[@]}" --batch-size-valid 256
    --required-batch-size-multiple 1 --update-epoch-batch-itr True --seed "$seed" "${device[@]}"
    --num-workers 0 --find-unused-parameters
    # checkpoints
    --save-dir "$run" --best-checkpoint-metric "$best" --maximize-best-checkpoint-metric "${checkpoints[@]}"
    --log-format simple --log-interval $((updates < 100 ? 1 : 25))
    "${more_flags[@]}"
)
predict=(
    fairseq-mem predict "$run/model.pt" --data "$data" --out "$run/predictions.tsv" --batch-size 256
    "${prediction_device[@]}"
)

# ------------------------------------------------------------ what is missing of it, is done

[ "$gpus" -gt 0 ] || use_cpu
keep=()
[ "${KEEP_MODEL:-1}" != 0 ] || keep=(--drop-model)
run_stages sentence "$run" --updates "$updates" --devices "$devices" --metrics "${metrics[@]}" "${keep[@]}" \
    --data-identity "$data/settings.txt" --dictionaries "$data/input0/dict.txt" \
    --settings model="$model" label="$label" size="${SIZE:-$(basename "$start")}" seed:="$seed" \
    data="$task" updates:="$updates" memory_tokens:="$tokens" memory_update="$update" \
    schedule="$schedule" batch:="$batch" rows:="${ROWS:-$batch}" lr="$lr" train_flags="${TRAIN_FLAGS:-}" \
    ::: train "${train[@]}" ::: predict "${predict[@]}"
