#!/usr/bin/env bash
# One language model: train it, take its best checkpoint, evaluate it. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/wikitext103/run.sh MODEL SEED

MODEL is one of
  baseline          fairseq's transformer_lm
  mem-N             the same with N memory tokens in front of every block
  xl-baseline       Transformer-XL
  xl-mem-N          with N memory tokens in front of every segment (paper: 20)
  xl-recurrent-N-K  with N memory tokens handed on, back-propagation through K segments
  sink, static-N    controls without memory: an attention sink; N static keys and values; also with
                    xl- in front

Trains it, evaluates the checkpoint with the best validation loss with fairseq-eval-lm, a model with
memory also with what is attended to memory set to zero (zero-read), and writes
RUNS/SIZE/MODEL/seed-SEED/result.json, which `fairseq-mem report` reads. Models of a kind get the
same flags but those of their memory. Stop it at any point and run it again: it continues.

  DATA=FOLDER      binarised data (default examples/wikitext103/work/data-bin, by prepare.sh; for
                   trial examples/wikitext103/work/small/data-bin, by prepare.sh --small)
  RUNS=FOLDER      the runs (default examples/wikitext103/runs)
  SIZE=NAME        wiki103: 16 layers, as published (default): transformer_lm_wiki103 with adaptive
                   input and softmax; Transformer-XL with d 410, segment and cache 150
                   trial: 4 layers of 128, block or segment 150, minutes on two CPU cores
  UPDATES=N        length of the training (default: wiki103 286000, Transformer-XL 200000; trial 800)
  BLOCKS=N         how many blocks or rows one device reads at a time (default: wiki103 1 of 3072
                   words, Transformer-XL 60 over all devices; trial 20)
  GPUS=N           devices (default: those of this machine; 0 = CPU)
  TRAIN_FLAGS=...  more flags for fairseq-train
  DRY_RUN=1        show the commands only
  VENV=FOLDER      the environment of `make install` (default .venv)
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"

case ${1:-} in -h | --help) usage && exit ;; esac
[ $# -eq 2 ] || fail "give a model and a seed, for instance: run.sh mem-10 1 (see --help)"
model=$1 seed=$2
whole_number "seed " "$seed"

# ------------------------------------------------------------ the settings

size=${SIZE:-wiki103}
work=examples/wikitext103/work
case $size in
wiki103) data=$work/data-bin ;;
trial) data=$work/small/data-bin ;;
*) fail "SIZE=$size: give wiki103 or trial" ;;
esac
runs=examples/wikitext103/runs venv=.venv
[ -z "${DATA:-}" ] || data=$(absolute_path "$DATA")
[ -z "${RUNS:-}" ] || runs=$(absolute_path "$RUNS")
[ -z "${VENV:-}" ] || venv=$(absolute_path "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# Short, and the same on every machine, for what lies in the repository.
data=${data#"$PWD"/} runs=${runs#"$PWD"/}
use_environment "$venv" fairseq-train fairseq-mem
[ -e "$data/settings.txt" ] ||
    fail "$data is no data of prepare.sh (no settings.txt in it); run prepare.sh, or set DATA"
gpus=${GPUS:-$(count_gpus)}
whole_number GPUS= "$gpus"
devices=$((gpus > 0 ? gpus : 1))

# ------------------------------------------------------------ the model

kind=lm label='' tokens=0 segments=0 control=()
if [[ $model =~ ^(xl-)?mem-([1-9][0-9]*)$ ]]; then
    tokens=${BASH_REMATCH[2]}
elif [[ $model =~ ^xl-recurrent-([1-9][0-9]*)-([1-9][0-9]*)$ ]]; then
    tokens=${BASH_REMATCH[1]} segments=${BASH_REMATCH[2]}
elif [[ $model =~ ^(xl-)?sink$ ]]; then
    control=(--attention-sink)
elif [[ $model =~ ^(xl-)?static-([1-9][0-9]*)$ ]]; then
    control=(--memory-static "${BASH_REMATCH[2]}")
elif [[ ! $model =~ ^(xl-)?baseline$ ]]; then
    fail "there is no model $model; see --help"
fi
case $model in xl-*) kind=xl ;; esac

block=150 blocks=20 updates=800 # trial; Transformer-XL at size wiki103 has the same segment
case $size-$kind in
wiki103-lm) block=3072 blocks=1 updates=286000 ;;
wiki103-xl) blocks=$((60 / devices > 0 ? 60 / devices : 1)) updates=200000 ;;
esac
# A recurrent model reads several segments in an update: of fewer rows, as many words.
[ "$segments" -lt 2 ] || blocks=$((blocks / segments > 0 ? blocks / segments : 1))
updates=${UPDATES:-$updates} blocks=${BLOCKS:-$blocks}
for name in updates blocks; do positive_number "${name^^}=" "${!name}"; done
save_every=$((updates / 20 > 100 ? updates / 20 : 100)) # what an interruption can cost
[ "$updates" -ge "$save_every" ] || save_every=$updates
[ $((updates % save_every)) -eq 0 ] || fail "UPDATES=$updates: give a multiple of $save_every"
accumulate=1

if [ $kind = lm ]; then
    label=transformer_lm arch=(--arch transformer_lm)
    [ "$tokens" -eq 0 ] || label="with memory $tokens" arch=(--arch mem_transformer_lm --memory-tokens "$tokens")
    [ ${#control[@]} -eq 0 ] || label=$model arch=(--arch mem_transformer_lm --memory-tokens 0 "${control[@]}")
    [ "$size" = trial ] || arch[1]+=_wiki103
    task=(--task language_modeling --sample-break-mode none)
else
    label=Transformer-XL arch=(--arch mem_transformer_xl --memory-tokens "$tokens")
    [ "$tokens" -eq 0 ] || label+=" with memory $tokens"
    [ ${#control[@]} -eq 0 ] || arch+=("${control[@]}") label+=", ${model#xl-}"
    if [ "$segments" -gt 0 ]; then
        arch+=(--memory-recurrence "$segments")
        label+=", recurrent over $segments"
    fi
    task=(--task streaming_language_modeling)
fi

# ------------------------------------------------------------ how it is trained and evaluated

batches=(--batch-size "$blocks")
validation=(--batch-size-valid 10)
case $size-$kind in
wiki103-lm) # fairseq's recipe for its adaptive language model
    accumulate=$((24 / devices > 0 ? 24 / devices : 1)) # 3 batches on each of 8 devices
    schedule=(
        --criterion adaptive_loss --optimizer nag --clip-norm 0.1 --lr 1.0 --min-lr 0.0001
        --lr-scheduler cosine --t-mult 2 --lr-shrink 0.75 --warmup-updates 16000
        --warmup-init-lr 1e-7 --lr-period-updates 270000 --stop-min-lr 1e-9
    )
    validation=(--batch-size-valid 1)
    evaluate=(--batch-size 2 --tokens-per-sample 512 --context-window 400)
    ;;
wiki103-xl) # the authors'
    arch+=(--cache-length 150)
    schedule=(--criterion adaptive_loss --optimizer adam --lr 2.5e-4 --lr-scheduler cosine --clip-norm 0.25)
    evaluate=(--tokens-per-sample 150)
    ;;
trial-*)
    arch+=(
        --decoder-layers 4 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 4
        --decoder-normalize-before --dropout 0.3
    )
    schedule=(
        --criterion cross_entropy --optimizer adam_fused --adam-betas '(0.9, 0.98)' --weight-decay 0.01
        --clip-norm 1 --lr 2e-3 --lr-scheduler polynomial_decay --warmup-updates 100
        --total-num-update "$updates"
    )
    if [ $kind = lm ]; then
        arch+=(--decoder-input-dim 128 --decoder-output-dim 128 --share-decoder-input-output-embed)
        evaluate=(--batch-size 20 --tokens-per-sample 150 --context-window 75)
    else
        arch+=(--cache-length 150 --adaptive-softmax-cutoff '')
        evaluate=(--tokens-per-sample 150)
    fi
    ;;
esac
[[ " ${schedule[*]} " != *" adaptive_loss "* ]] || schedule+=(--ddp-backend legacy_ddp)
device=(--fp16) evaluation_device=()
[ "$gpus" -gt 0 ] || device=(--cpu) evaluation_device=(--cpu)
device+=(--distributed-world-size "$devices") # fairseq's own default is all that the machine has
more=()
[ -z "${TRAIN_FLAGS:-}" ] || read -ra more <<<"$TRAIN_FLAGS"

run=$runs/$size/$model/seed-$seed
train=(
    fairseq-train "$data" --user-dir fairseq_mem "${task[@]}" --tokens-per-sample "$block"
    # the model
    "${arch[@]}"
    # how it learns, and how long
    "${schedule[@]}" --max-update "$updates"
    # batches; made anew for each epoch, so that a resumed training is the uninterrupted one
    "${batches[@]}" --update-freq "$accumulate" --required-batch-size-multiple 1 "${validation[@]}"
    --update-epoch-batch-itr True --seed "$seed" "${device[@]}" --num-workers 0
    # checkpoints; the newest is what is gone on from, so checkpoint_last.pt is not needed
    --save-dir "$run" --save-interval-updates "$save_every" --validate-interval-updates "$save_every"
    --keep-interval-updates 2 --keep-last-epochs 1 --no-last-checkpoints
    --log-format simple --log-interval 20
    "${more[@]}"
)
evaluate=(
    fairseq-eval-lm "$data" --user-dir fairseq_mem --path "$run/model.pt" "${task[@]}"
    "${evaluate[@]}" --num-workers 0 "${evaluation_device[@]}"
)

# ------------------------------------------------------------ what is missing of it, is done

stages=(
    ::: train "${train[@]}"
    ::: valid "${evaluate[@]}" --gen-subset valid
    ::: test "${evaluate[@]}" --gen-subset test
)
[ "$tokens" -eq 0 ] || # what is attended to memory set to zero
    stages+=(
        ::: test-zero-read "${evaluate[@]}" --gen-subset test
        --model-overrides "{'memory_lesion': 'zero-read'}"
    )
[ "$gpus" -gt 0 ] || use_cpu
words_per_update=$((block * blocks * devices * accumulate * (segments > 1 ? segments : 1)))
run_stages language-model "$run" --updates "$updates" --devices "$devices" \
    --data-identity "$data/settings.txt" --dictionaries "$data/dict.txt" \
    --settings model="$model" label="$label" size="$size" seed:="$seed" \
    data="$(sed -n 's/^name //p' "$data/settings.txt")" \
    updates:="$updates" arch="${arch[1]}" memory_tokens:="$tokens" memory_recurrence:="$segments" \
    words_per_update:="$words_per_update" train_flags="${TRAIN_FLAGS:-}" "${stages[@]}"
