#!/usr/bin/env bash
# One cell of the table: train a model, average, translate the test set, score. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/wmt14_de_en/run.sh MODEL SEED

MODEL is one of
  baseline           fairseq's transformer
  mem-N              MemTransformer with N memory tokens (paper: 5, 10, 20)
  mem-ctrl-N         MemCtrl
  mem-ctrl-shared-N  MemCtrl Shared
  mem-bottleneck-N   MemBottleneck
  mem-N-only         MemTransformer of which only memory is trained; needs START
  sink, static-N     controls without memory: an attention sink; N static keys and values

Trains it, averages its last checkpoints, translates the test set (beam 4, length penalty 0.6),
scores with sacreBLEU, and writes RUNS/SIZE/MODEL/seed-SEED/result.json, which `fairseq-mem report`
reads. All models get the same flags but those of their memory. Stop it at any point and run it
again: it continues.

  DATA=FOLDER       binarised data (default examples/wmt14_de_en/work/data-bin, by prepare.sh)
  DATA_NAME=NAME    what the report calls it (default wmt14; of other data, its folder's name)
  REFERENCE=FILE    raw references of the test set (default raw/test.LANGUAGE beside DATA)
  RUNS=FOLDER       the runs (default examples/wmt14_de_en/runs)
  SIZE=NAME         base: 6+6 layers of 512 (default); small: the paper's 4+4 layers of 128;
                    iwslt: 6+6 layers of 512 with 4 heads and 1024 in between, for little text on a GPU;
                    trial: the quickstart's 3+3 layers of 128, minutes on two CPU cores
  UPDATES=N         length of the training (default: base and small 40000, about ten passes over
                    WMT-14; iwslt 6000, trial 2000)
  MAX_TOKENS=N      of a batch on one device: lower it if the device's memory is too small
                    (default: trial 1500, otherwise 4096)
  BATCH=N           tokens of an update, over all devices (default: base and small 32768, iwslt 4096); batches
                    are accumulated until there are so many
  REMOVE_BPE=KIND   what undoes the BPE of the translations: subword_nmt (default), sentencepiece
  TOKENIZER=NAME    what detokenises them: moses (default) or none
  GPUS=N            devices in all, over all nodes (default: those of this machine; 0 = CPU)
  LAUNCHER=COMMAND  starts fairseq-train, for several nodes; see the README
  START=FILE        train on from this checkpoint, for UPDATES more; goes into
                    RUNS/SIZE-extension/MODEL/seed-SEED (see extension.sh)
  TRAIN_FLAGS=...   more flags for fairseq-train
  TASK=NAME         another task than translation, with options in TRAIN_FLAGS, and
  NAME=, LABEL=     what the model then is called, for its folder and in the report
  DRY_RUN=1         show the commands only
  VENV=FOLDER       the environment of `make install` (default .venv)
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
[ $# -eq 2 ] || fail "give a model and a seed, for instance: run.sh mem-10 1 (see --help)"
model=$1 seed=$2
whole_number "seed " "$seed"

# ------------------------------------------------------------ the settings

data=examples/wmt14_de_en/work/data-bin runs=examples/wmt14_de_en/runs
[ -z "${DATA:-}" ] || data=$(absolute_path "$DATA")
[ -z "${RUNS:-}" ] || runs=$(absolute_path "$RUNS")
[ -z "${REFERENCE:-}" ] || reference=$(absolute_path "$REFERENCE")
[ -z "${START:-}" ] || start=$(absolute_path "$START")
venv=.venv
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# Short, and the same on every machine, for what lies in the repository.
data=${data#"$PWD"/} runs=${runs#"$PWD"/} start=${start:-} && start=${start#"$PWD"/}
data_name=wmt14
[ -z "${DATA:-}" ] || data_name=$(basename "${data%/data-bin}")
data_name=${DATA_NAME:-$data_name}
use_environment "$venv" fairseq-train sacrebleu fairseq-mem

if [ -e "$data/settings.txt" ]; then # made by preprocess.sh
    source_language=$(sed -n 's/^source //p' "$data/settings.txt")
    target_language=$(sed -n 's/^target //p' "$data/settings.txt")
    identity=$data/settings.txt
else # any data of fairseq-preprocess: test.de-en.de.idx
    identity=$(find "$data/" -maxdepth 1 -name 'train.*-*.*.idx' 2>/dev/null | sort | head -n 1) || true
    [ -n "$identity" ] || fail "$data is no binarised parallel data; run prepare.sh, or set DATA"
    pair=$(basename "$identity" | cut -d . -f 2)
    source_language=${pair%-*} target_language=${pair#*-}
fi
reference=${reference:-$(dirname "$data")/raw/test.$target_language}
[ -e "$reference" ] || fail "no reference $reference; set REFERENCE to the raw test set's target side"
# One dictionary for both languages: one table of embeddings.
share=--share-all-embeddings
cmp -s "$data/dict.$source_language.txt" "$data/dict.$target_language.txt" ||
    share=--share-decoder-input-output-embed
[ -z "$start" ] || [ -e "$start" ] || fail "START=$start: no such checkpoint"

size=${SIZE:-base}
case $size in
base | small) updates=40000 max_tokens=4096 batch=32768 average=5 ;;
iwslt) updates=6000 max_tokens=4096 batch=4096 average=1 ;;
trial) updates=2000 max_tokens=1500 batch=1500 average=1 ;;
*) fail "SIZE=$size: give base, small, iwslt or trial" ;;
esac
updates=${UPDATES:-$updates} max_tokens=${MAX_TOKENS:-$max_tokens} batch=${BATCH:-$batch}
[ -z "${LAUNCHER:-}" ] || [ -n "${GPUS:-}" ] ||
    fail "LAUNCHER without GPUS: set GPUS to the number of devices that it starts, over all nodes"
gpus=${GPUS:-$(count_gpus)}
for name in updates max_tokens batch; do positive_number "${name^^}=" "${!name}"; done
whole_number GPUS= "$gpus"
devices=$((gpus > 0 ? gpus : 1))
accumulate=$(((batch + max_tokens * devices - 1) / (max_tokens * devices)))
save_every=$((updates / 20 > 400 ? updates / 20 : 400)) # what an interruption can cost
[ "$updates" -ge "$save_every" ] || save_every=$updates
[ "$average" -le $((updates / save_every)) ] || average=$((updates / save_every)) # all there are
[ $((updates % save_every)) -eq 0 ] || fail "UPDATES=$updates: give a multiple of $save_every"

# ------------------------------------------------------------ the model

arch='' label='' tokens=0 memory=() # beside the flags that all models get
if [[ $model =~ ^mem(-ctrl|-ctrl-shared|-bottleneck)?-([1-9][0-9]*)(-only)?$ ]]; then
    tokens=${BASH_REMATCH[2]}
    case ${BASH_REMATCH[1]} in
    '') arch=mem_transformer label="MemTransformer $tokens" ;;
    -ctrl) arch=mem_ctrl_transformer label="MemCtrl $tokens" ;;
    -ctrl-shared) arch=mem_ctrl_shared_transformer label="MemCtrl Shared $tokens" ;;
    -bottleneck) arch=mem_bottleneck_transformer label="MemBottleneck $tokens" ;;
    esac
    memory=(--memory-tokens "$tokens")
    if [ -n "${BASH_REMATCH[3]}" ]; then
        [ -n "$start" ] || fail "$model trains memory only, of a model that is trained already: set START"
        memory+=(--memory-only) label+=", memory only"
    fi
elif [ "$model" = sink ]; then
    arch=mem_transformer label="attention sink" memory=(--memory-tokens 0 --attention-sink)
elif [[ $model =~ ^static-([1-9][0-9]*)$ ]]; then
    arch=mem_transformer label="static ${BASH_REMATCH[1]}"
    memory=(--memory-tokens 0 --memory-static "${BASH_REMATCH[1]}")
elif [ "$model" = baseline ]; then
    arch=transformer label=Transformer
else
    fail "there is no model $model; see --help"
fi

task=${TASK:-translation} name=${NAME:-$model} label=${LABEL:-$label}
group=$size${start:+-extension} # in the report: what is compared
[ "$task" = translation ] || group=$size

case $size in
base)
    sizes=(
        --encoder-layers 6 --encoder-embed-dim 512 --encoder-ffn-embed-dim 2048 --encoder-attention-heads 8
        --decoder-layers 6 --decoder-embed-dim 512 --decoder-ffn-embed-dim 2048 --decoder-attention-heads 8
    )
    ;;
small)
    sizes=(
        --encoder-layers 4 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 8
        --decoder-layers 4 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 8
    )
    ;;
iwslt)
    sizes=(
        --encoder-layers 6 --encoder-embed-dim 512 --encoder-ffn-embed-dim 1024 --encoder-attention-heads 4
        --decoder-layers 6 --decoder-embed-dim 512 --decoder-ffn-embed-dim 1024 --decoder-attention-heads 4
        --encoder-normalize-before --decoder-normalize-before
    )
    ;;
trial)
    sizes=(
        --encoder-layers 3 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 4
        --decoder-layers 3 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 4
        --encoder-normalize-before --decoder-normalize-before
    )
    ;;
esac

# ------------------------------------------------------------ how it is trained

if [ "$size" = trial ]; then # few passes over little text: no dropout, a rate that ends at 0
    dropout=0 schedule=(--lr 4e-3 --lr-scheduler polynomial_decay --warmup-updates 200)
    schedule+=(--total-num-update "$updates")
elif [ "$size" = iwslt ]; then # some passes over little text
    dropout=0.2 schedule=(--lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates 400)
    schedule+=(--total-num-update "$updates")
else # the paper's optimizer and schedule, as far as they are known
    dropout=0.1 schedule=(--lr 7e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --warmup-init-lr 1e-7)
fi
if [ -n "$start" ]; then # what was learned shall not be lost in the first updates
    schedule=(--lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates 100)
    [ "$size" = trial ] || schedule=(--lr 3e-4 --lr-scheduler polynomial_decay --warmup-updates 1000)
    schedule+=(--total-num-update "$updates")
    label+=", $updates more updates"
    average=1
fi
device=(--fp16 --num-workers 2)
[ "$gpus" -gt 0 ] || device=(--cpu --num-workers 0)
generate_device=() launcher=() more=() program=fairseq-train
if [ -n "${LAUNCHER:-}" ]; then
    read -ra launcher <<<"$LAUNCHER"
    program=$(command -v fairseq-train) # torchrun wants a path
else # fairseq's own default is all that the machine has
    device+=(--distributed-world-size "$devices")
fi
[ -z "${TRAIN_FLAGS:-}" ] || read -ra more <<<"$TRAIN_FLAGS"

run=$runs/$group/$name/seed-$seed

task_flags=() # translation is fairseq-train's default
[ "$task" = translation ] || task_flags=(--task "$task")
train=(
    "${launcher[@]}" "$program" "$data" --user-dir fairseq_mem
    # the model
    --arch "$arch" "${memory[@]}" "${sizes[@]}" "$share"
    "${task_flags[@]}"
    # what is learned: fairseq's label-smoothed loss and Adam to rounding, computed faster
    --criterion label_smoothed_cross_entropy_fused --label-smoothing 0.1 --dropout "$dropout"
    --optimizer adam_fused --adam-betas '(0.9, 0.98)' --adam-eps 1e-9 --clip-norm 1
    # how fast and how long
    "${schedule[@]}" --max-update "$updates"
    # batches; fairseq loses sentences when a batch's size is no multiple of 8, its default;
    # made anew for each epoch, so that a resumed training is the uninterrupted one
    --max-tokens "$max_tokens" --update-freq "$accumulate" --required-batch-size-multiple 1
    --update-epoch-batch-itr True --seed "$seed" "${device[@]}"
    # checkpoints; the newest is what is gone on from, so checkpoint_last.pt is not needed
    --save-dir "$run" --save-interval-updates "$save_every" --validate-interval-updates "$save_every"
    --keep-interval-updates "$((average > 2 ? average : 2))" --keep-last-epochs 1 --no-last-checkpoints
    --log-format simple --log-interval 50
    "${more[@]}"
)
[ -z "$start" ] || train+=(--finetune-from-model "$start")
average_command=(fairseq-mem average "THE LAST $average CHECKPOINTS" --out "$run/model.pt")
[ "$gpus" -gt 0 ] || generate_device=(--cpu)
generate=(
    fairseq-generate "$data" --user-dir fairseq_mem --path "$run/model.pt" --gen-subset test
    --source-lang "$source_language" --target-lang "$target_language"
    "${task_flags[@]}" --beam 4 --lenpen 0.6 --max-len-a 1.2 --max-len-b 10
    --max-tokens "$((max_tokens * 4))" --required-batch-size-multiple 1
    "${generate_device[@]}"
)
[ "${REMOVE_BPE:-}" = none ] || generate+=(--remove-bpe "${REMOVE_BPE:-subword_nmt}")
[ "${TOKENIZER:-}" = none ] || generate+=(--tokenizer "${TOKENIZER:-moses}")
[ "$gpus" -eq 0 ] || generate+=(--fp16)
validate=( # --task: without it fairseq-validate doesn't know the data's options
    fairseq-validate "$data" --user-dir fairseq_mem --path "$run/model.pt" --task "$task"
    --source-lang "$source_language" --target-lang "$target_language"
    --max-tokens "$((max_tokens * 2))" --required-batch-size-multiple 1 --log-format simple
    --valid-subset "valid,test" "${generate_device[@]}"
)
score=(
    sacrebleu "$reference" --input "$run/hypotheses.txt"
    --language-pair "$source_language-$target_language" --metrics bleu chrf
    --width 6 # digits: the report computes with them
)

# ------------------------------------------------------------ what is missing of it, is done

stages=(::: train "${train[@]}")
[ "$average" -eq 1 ] || stages+=(::: average "${average_command[@]}")
stages+=(::: validate "${validate[@]}" ::: translate "${generate[@]}" ::: score "${score[@]}")

# The launcher starts this script on one node only, see the README.
[ "$gpus" -gt 0 ] || use_cpu
run_stages translation "$run" --updates "$updates" --average "$average" --devices "$devices" \
    --data "$data" --data-identity "$identity" --dictionaries "$data"/dict.*.txt \
    --reference "$reference" \
    --settings model="$name" label="$label" size="$group" seed:="$seed" \
    data="$data_name" updates:="$updates" arch="$arch" memory_tokens:="$tokens" \
    tokens_per_update:="$((max_tokens * devices * accumulate))" \
    start="$start" train_flags="${TRAIN_FLAGS:-}" "${stages[@]}"
