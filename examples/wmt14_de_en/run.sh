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

Trains it, averages its last checkpoints, translates the test set (beam 4, length penalty 0.6),
scores with sacreBLEU, and writes RUNS/SIZE/MODEL/seed-SEED/result.json, which `fairseq-mem report`
reads. All models get the same flags but those of their memory. Stop it at any point and run it
again: it continues.

  DATA=FOLDER       binarised data (default examples/wmt14_de_en/work/data-bin, by prepare.sh)
  DATA_NAME=NAME    what the report calls it (default wmt14)
  REFERENCE=FILE    raw references of the test set (default raw/test.LANGUAGE beside DATA)
  RUNS=FOLDER       the runs (default examples/wmt14_de_en/runs)
  SIZE=NAME         base: 6+6 layers of 512 (default); small: the paper's 4+4 layers of 128;
                    trial: the quickstart's 3+3 layers of 128, minutes on two CPU cores
  UPDATES=N         length of the training (default: base and small 40000, about ten passes over
                    WMT-14; trial 2000)
  MAX_TOKENS=N      of a batch on one device: lower it if the device's memory is too small
                    (default: base and small 4096, trial 1500)
  BATCH=N           tokens of an update, over all devices (default: base and small 32768); batches
                    are accumulated until there are so many
  GPUS=N            devices in all, over all nodes (default: those of this machine; 0 = CPU)
  LAUNCHER=COMMAND  starts fairseq-train, for several nodes; see the README
  START=FILE        train on from this checkpoint, for UPDATES more; goes into
                    RUNS/SIZE-extension/MODEL/seed-SEED (see extension.sh)
  TRAIN_FLAGS=...   more flags for fairseq-train
  DRY_RUN=1         show the commands only
  VENV=FOLDER       the environment of `make install` (default .venv)
HELP
}

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

case ${1:-} in -h | --help) usage && exit ;; esac
[ $# -eq 2 ] || fail "give a model and a seed, for instance: run.sh mem-10 1 (see --help)"
model=$1 seed=$2
[[ $seed =~ ^[0-9]+$ ]] || fail "seed $seed: give a whole number"

# ------------------------------------------------------------ the settings

from_here() { # a path that stays right after cd
    case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}

data=examples/wmt14_de_en/work/data-bin runs=examples/wmt14_de_en/runs
[ -z "${DATA:-}" ] || data=$(from_here "$DATA")
[ -z "${RUNS:-}" ] || runs=$(from_here "$RUNS")
[ -z "${REFERENCE:-}" ] || reference=$(from_here "$REFERENCE")
[ -z "${START:-}" ] || start=$(from_here "$START")
venv=.venv
[ -z "${VENV:-}" ] || venv=$(from_here "$VENV")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# Short, and the same on every machine, for what lies in the repository.
data=${data#"$PWD"/} runs=${runs#"$PWD"/} start=${start:-} && start=${start#"$PWD"/}
[ ! -d "$venv/bin" ] || PATH="$(cd "$venv/bin" && pwd):$PATH"
command -v fairseq-train sacrebleu fairseq-mem >/dev/null ||
    fail "fairseq-train, sacrebleu or fairseq-mem is not there; run 'make install', or set VENV"

[ -e "$data/settings.txt" ] ||
    fail "$data is no data of preprocess.sh (no settings.txt in it); run prepare.sh, or set DATA"
source_language=$(sed -n 's/^source //p' "$data/settings.txt")
target_language=$(sed -n 's/^target //p' "$data/settings.txt")
reference=${reference:-$(dirname "$data")/raw/test.$target_language}
[ -e "$reference" ] || fail "no reference $reference; set REFERENCE to the raw test set's target side"
[ -z "$start" ] || [ -e "$start" ] || fail "START=$start: no such checkpoint"

size=${SIZE:-base}
case $size in
base | small) updates=40000 max_tokens=4096 batch=32768 average=5 ;;
trial) updates=2000 max_tokens=1500 batch=1500 average=1 ;;
*) fail "SIZE=$size: give base, small or trial" ;;
esac
updates=${UPDATES:-$updates} max_tokens=${MAX_TOKENS:-$max_tokens} batch=${BATCH:-$batch}
gpus=${GPUS:-$(python -c 'import torch; print(torch.cuda.device_count())')}
for name in updates max_tokens batch; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "${name^^}=${!name}: give a whole number above 0"
done
[[ $gpus =~ ^[0-9]+$ ]] || fail "GPUS=$gpus: give a whole number"
devices=$((gpus > 0 ? gpus : 1))
accumulate=$(((batch + max_tokens * devices - 1) / (max_tokens * devices)))
save_every=$((updates / 20 > 400 ? updates / 20 : 400)) # what an interruption can cost
[ "$updates" -ge "$save_every" ] || save_every=$updates
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
elif [ "$model" = baseline ]; then
    arch=transformer label=Transformer
else
    fail "there is no model $model; see --help"
fi

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
else # the paper's optimizer and schedule, as far as they are known
    dropout=0.1 schedule=(--lr 7e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --warmup-init-lr 1e-7)
fi
if [ -n "$start" ]; then # what was learned shall not be lost in the first updates
    schedule=(--lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates 100)
    [ "$size" = trial ] || schedule=(--lr 3e-4 --lr-scheduler polynomial_decay --warmup-updates 1000)
    schedule+=(--total-num-update "$updates" --finetune-from-model "$start")
    label+=", $updates more updates"
    average=1
fi
device=(--fp16 --num-workers 2)
[ "$gpus" -gt 0 ] || device=(--cpu --num-workers 0)
generate_device=() launcher=() more=() program=fairseq-train
[ -z "${LAUNCHER:-}" ] || {
    read -ra launcher <<<"$LAUNCHER"
    program=$(command -v fairseq-train) # torchrun wants a path
}
[ -z "${TRAIN_FLAGS:-}" ] || read -ra more <<<"$TRAIN_FLAGS"

run=$runs/$size${start:+-extension}/$model/seed-$seed

train=(
    "${launcher[@]}" "$program" "$data" --user-dir fairseq_mem
    # the model
    --arch "$arch" "${memory[@]}" "${sizes[@]}" --share-all-embeddings
    # what is learned: fairseq's label-smoothed loss and Adam to rounding, computed faster
    --criterion label_smoothed_cross_entropy_fused --label-smoothing 0.1 --dropout "$dropout"
    --optimizer adam_fused --adam-betas '(0.9, 0.98)' --adam-eps 1e-9 --clip-norm 1
    # how fast and how long
    "${schedule[@]}" --max-update "$updates"
    # batches; fairseq loses sentences when a batch's size is no multiple of 8, its default
    --max-tokens "$max_tokens" --update-freq "$accumulate" --required-batch-size-multiple 1
    --seed "$seed" "${device[@]}"
    # checkpoints; fairseq's checkpoint_last.pt is a copy that a kill can cut short
    --save-dir "$run" --save-interval-updates "$save_every" --validate-interval-updates "$save_every"
    --keep-interval-updates "$((average > 2 ? average : 2))" --keep-last-epochs 1 --no-last-checkpoints
    --log-format simple --log-interval 50
    "${more[@]}"
)
[ "$gpus" -gt 0 ] || generate_device=(--cpu)
generate=(
    fairseq-generate "$data" --user-dir fairseq_mem --path "$run/model.pt" --gen-subset test
    --source-lang "$source_language" --target-lang "$target_language"
    --beam 4 --lenpen 0.6 --max-len-a 1.2 --max-len-b 10
    --max-tokens "$((max_tokens * 4))" --required-batch-size-multiple 1
    --remove-bpe --tokenizer moses "${generate_device[@]}"
)
[ "$gpus" -eq 0 ] || generate+=(--fp16)
validate=( # --task: without it fairseq-validate doesn't know the data's options
    fairseq-validate "$data" --user-dir fairseq_mem --path "$run/model.pt" --task translation
    --source-lang "$source_language" --target-lang "$target_language"
    --max-tokens "$((max_tokens * 2))" --required-batch-size-multiple 1 --log-format simple
    --valid-subset "valid,test" "${generate_device[@]}"
)
score=(
    sacrebleu "$reference" --input "$run/hypotheses.txt"
    --language-pair "$source_language-$target_language" --metrics bleu chrf
)

show() { # a command, so that it can be copied
    printf '+'
    printf ' %q' "$@"
    printf '\n'
}

if [ -n "${DRY_RUN:-}" ]; then
    show "${train[@]}"
    [ "$average" -eq 1 ] || show fairseq-mem average "THE LAST $average CHECKPOINTS" --out "$run/model.pt"
    show "${validate[@]}"
    show "${generate[@]}"
    show "${score[@]}"
    exit
fi

# ------------------------------------------------------------ the run's folder

# The launcher starts this script on one node only, see the README.
mkdir -p "$run" || fail "cannot make $run; set RUNS to a folder that can be written to"
exec 9>>"$run/lock" || fail "cannot write in $run; set RUNS to a folder that can be written to"
if command -v flock >/dev/null; then
    flock -n 9 || fail "$run is being trained already; wait for it, or give another model or seed"
fi
python examples/wmt14_de_en/result.py settings "$run" \
    model="$model" label="$label" size="$size${start:+-extension}" seed:="$seed" \
    data="${DATA_NAME:-wmt14}" data_sha256="$(sha256sum "$data/settings.txt" | cut -c 1-16)" \
    updates:="$updates" arch="$arch" memory_tokens:="$tokens" tokens_per_update:="$((max_tokens * devices * accumulate))" \
    start="$start" train_flags="${TRAIN_FLAGS:-}" || exit 1
if [ -e "$run/result.json" ]; then
    echo "$run is finished: nothing to do"
    exit
fi

stage='' stage_start=0
begin() { # stage, title
    stage=$1 stage_start=$SECONDS
    echo "== $model, seed $seed: $2"
}
end() { # adds to the stage's seconds, over interruptions too
    [ -n "$stage" ] || return 0
    local seconds="$run/seconds.$stage"
    echo $((SECONDS - stage_start + $(cat "$seconds" 2>/dev/null || echo 0))) >"$seconds.new"
    mv "$seconds.new" "$seconds"
    stage=''
}
failed() { # leaves word for the report
    echo "$*" >"$run/failed.txt"
    end
    fail "$* (run again to continue)"
}
trap end EXIT
trap 'end; echo "run.sh: $model, seed $seed: stopped; run it again to continue" >&2; exit 130' INT TERM
rm -f "$run/failed.txt"

# glibc gives large blocks of memory back to the kernel after every use; keeping them makes
# training about 4 % faster. OpenMP's threads don't burn a core while they wait.
[ "$gpus" -gt 0 ] || export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000 OMP_WAIT_POLICY=PASSIVE

# ------------------------------------------------------------ train

finished() { # the newest $average checkpoints of a training that reached its end
    python scripts/newest_checkpoint.py "$run" "$updates" "$average"
}

if [ ! -e "$run/model.pt" ]; then
    mapfile -t last < <(finished)
    if [ ${#last[@]} -eq 0 ]; then
        begin train "training, $updates updates"
        newest=$(python scripts/newest_checkpoint.py "$run")
        if [ -n "$newest" ]; then # fairseq refuses --finetune-from-model beside it
            for at in "${!train[@]}"; do
                [ "${train[at]}" != --finetune-from-model ] || train=("${train[@]:0:at}" "${train[@]:at+2}")
            done
            train+=(--restore-file "$newest")
        fi
        show "${train[@]}"
        echo "  (everything it says is in $run/train.log)"
        "${train[@]}" 2>&1 | tee -a "$run/train.log" | sed -unE \
            -e "s/.*train_inner.* loss=([0-9.]+),.* wps=([0-9]+).* num_updates=([0-9]+),.*/  $model, seed $seed: update \3 of $updates: loss \1, \2 tokens a second/p" \
            -e "s/.*valid on .* loss ([0-9.]+) .* ppl ([0-9.]+) .*/  $model, seed $seed: validation loss \1, perplexity \2/p" || {
            tail -n 3 "$run/train.log" >&2
            failed "fairseq-train failed: $(grep -v '^ *$' "$run/train.log" | tail -n 1)"
        }
        end
        mapfile -t last < <(finished)
    fi
    [ ${#last[@]} -gt 0 ] || failed "no whole checkpoint of update $updates"
    begin average "the model"
    if [ "$average" -eq 1 ]; then
        cp "${last[0]}" "$run/model.pt.partial"
        mv "$run/model.pt.partial" "$run/model.pt"
    else
        show fairseq-mem average "${last[@]}" --out "$run/model.pt" | tee "$run/average.txt"
        fairseq-mem average "${last[@]}" --out "$run/model.pt" || failed "averaging failed"
    fi
    end
fi

# ------------------------------------------------------------ losses, translations, scores

if [ ! -e "$run/losses.txt" ]; then
    begin validate "loss on the validation and the test set"
    show "${validate[@]}"
    "${validate[@]}" >"$run/losses.partial" 2>&1 ||
        failed "fairseq-validate failed: $(tail -n 1 "$run/losses.partial")"
    mv "$run/losses.partial" "$run/losses.txt"
    end
fi

if [ ! -e "$run/hypotheses.txt" ]; then
    begin translate "translating $(wc -l <"$reference") sentences, beam 4"
    show "${generate[@]}"
    "${generate[@]}" >"$run/generate.partial" 2>"$run/generate.log" ||
        failed "fairseq-generate failed: $(tail -n 1 "$run/generate.log")"
    # fairseq's D- lines are its detokenised translations.
    grep ^D- "$run/generate.partial" | sort -V | cut -f 3 >"$run/hypotheses.partial"
    mv "$run/generate.partial" "$run/generate.txt"
    mv "$run/hypotheses.partial" "$run/hypotheses.txt"
    end
fi
[ "$(wc -l <"$run/hypotheses.txt")" -eq "$(wc -l <"$reference")" ] ||
    failed "$(wc -l <"$run/hypotheses.txt") translations for $(wc -l <"$reference") references; is REFERENCE=$reference right?"

begin score "scoring"
show "${score[@]}"
"${score[@]}" >"$run/scores.partial" || failed "sacrebleu failed"
mv "$run/scores.partial" "$run/scores.json"
cp "$reference" "$run/reference.partial"
mv "$run/reference.partial" "$run/reference.txt"
end
{
    show "${train[@]}"
    [ ! -e "$run/average.txt" ] || cat "$run/average.txt"
    show "${generate[@]}"
    show "${score[@]}"
} | sed "s/^+ //" >"$run/commands.txt"
python examples/wmt14_de_en/result.py finish "$run" || failed "no result; see above"
