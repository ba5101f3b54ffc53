#!/usr/bin/env bash
# German-English from raw text to BLEU on a CPU. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/quickstart/run.sh

Fetches German-English Bible verses, prepares them, trains a small mem_transformer with
10 memory tokens, translates held-out chapters and scores them with sacreBLEU: under ten
minutes on two CPU cores. Stop it at any point and run it again: it continues.

  WORK=FOLDER     everything made here (default examples/quickstart/work)
  CACHE=FOLDER    the downloaded Bibles, 70 MB (default examples/quickstart/cache)
  UPDATES=N       train longer or shorter; each N has its own checkpoints
  VENV=FOLDER     the environment of `make install` (default .venv), or
  PYTHON=PROGRAM  any Python that has the requirements
HELP
}

# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"
recipe=quickstart # how it calls itself in messages

case ${1:-} in
'') ;;
-h | --help) usage && exit ;;
*) fail "unknown argument $1; see --help" ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

# ------------------------------------------------------------ settings

work=examples/quickstart/work
cache=examples/quickstart/cache
[ -z "${WORK:-}" ] || work=$(absolute_path "$WORK")
[ -z "${CACHE:-}" ] || cache=$(absolute_path "$CACHE")
updates=${UPDATES:-2000}
positive_number UPDATES= "$updates"
save_every=400 # about a minute: what an interruption can cost
[ "$updates" -ge $save_every ] || save_every=$updates
[ $((updates % save_every)) -eq 0 ] || fail "UPDATES=$updates: give a multiple of $save_every"

if [ -n "${VENV:-}" ] && [ -x "$(absolute_path "$VENV")/bin/python" ]; then
    PYTHON=$(absolute_path "$VENV")/bin/python
elif [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x "$root/.venv/bin/python" ] || PYTHON="$root/.venv/bin/python"
fi
python=$PYTHON
PYTHON=$(command -v "$python") || fail "there is no Python $python; run 'make install', or set PYTHON"
export PYTHON
cd "$root"
PATH="$(dirname "$PYTHON"):$PATH" # where pip put the fairseq commands
command -v fairseq-train sacrebleu >/dev/null ||
    fail "$PYTHON lacks fairseq or sacrebleu; run 'make install', or set PYTHON"

raw="$work/raw"          # the verses
data="$work/data-bin"    # binarised
run="$work/run-$updates" # checkpoints, the model, its translations

use_cpu

# ------------------------------------------------------------ stages

stage='' stage_start=0

begin() { # stage, title, how long
    stage=$1 stage_start=$SECONDS
    echo
    echo "== $2 (about $3)"
}

end() { # adds to the stage's seconds, over interruptions too
    [ -n "$stage" ] || return 0
    local seconds="$run/seconds.$stage"
    echo $((SECONDS - stage_start + $(cat "$seconds" 2>/dev/null || echo 0))) >"$seconds.new"
    mv "$seconds.new" "$seconds"
    stage=''
}

trap end EXIT
trap 'end; echo; echo "quickstart: stopped; run it again to continue" >&2; exit 130' INT TERM

fetch() {
    [ ! -d "$raw" ] || return 0
    begin fetch "Fetching the verses, 70 MB" "20 seconds"
    show python examples/quickstart/bible.py "$cache" "$raw"
    "$PYTHON" examples/quickstart/bible.py "$cache" "$raw"
    end
}

prepare() {
    [ ! -e "$data/settings.txt" ] || return 0
    begin prepare "Preparing the text: tokens, BPE, numbers" "40 seconds"
    local command=(
        ./preprocess.sh --source de --target en --bpe 4000
        --train "$raw/train" --valid "$raw/valid" --test "$raw/test" --out "$data"
    )
    run "${command[@]}"
    end
}

checkpoint() { # the newest that is whole, with $1 only one of so many updates
    [ -z "$(find "$run" -name 'checkpoint*.pt')" ] || # asking takes seconds
        "$PYTHON" -m fairseq_mem.runs.checkpoints "$run" "$@"
}

train() {
    [ ! -e "$run/model.pt" ] || return 0
    begin train "Training: $updates updates" "$((updates / 6 / 60 + 1)) minutes"
    local newest command
    newest=$(checkpoint)
    command=(
        fairseq-train "$data" --user-dir fairseq_mem
        # the model
        --arch mem_transformer_small --memory-tokens 10
        --encoder-layers 3 --decoder-layers 3
        --encoder-attention-heads 4 --decoder-attention-heads 4
        --encoder-normalize-before --decoder-normalize-before --share-all-embeddings
        # what is learned, and how fast: few passes over little text, so no dropout
        --criterion label_smoothed_cross_entropy_fused --label-smoothing 0.1 --dropout 0
        --optimizer adam_fused --adam-betas '(0.9, 0.98)' --clip-norm 1
        --lr 4e-3 --warmup-updates 200
        --lr-scheduler polynomial_decay --total-num-update "$updates" --max-update "$updates"
        --max-tokens 1500 --required-batch-size-multiple 1 --num-workers 0 --seed 1 --cpu
        # checkpoints; batches anew for each epoch, so that a resumed training is the uninterrupted one
        --update-epoch-batch-itr True
        --save-dir "$run" --save-interval-updates "$save_every" --keep-interval-updates 2
        --keep-last-epochs 1 --no-last-checkpoints
        --log-format simple --log-interval 50
    )
    # They are written under a temporary name and renamed, so they are whole unless the disk is
    # at fault.
    [ -z "$newest" ] || command+=(--restore-file "$newest")
    if [ -z "$(checkpoint "$updates")" ]; then
        show "${command[@]}"
        echo "  (everything it says is in $run/train.log)"
        "${command[@]}" 2>&1 | tee -a "$run/train.log" | sed -unE \
            -e "s/.*train_inner.* loss=([0-9.]+),.* wps=([0-9]+).* num_updates=([0-9]+),.*/  update \3 of $updates: loss \1, \2 tokens a second/p" \
            -e 's/.*valid on .* loss ([0-9.]+) .* ppl ([0-9.]+) .*/  validation: loss \1, perplexity \2/p' || {
            tail -n 3 "$run/train.log" >&2
            fail "fairseq-train failed (above); run again to continue"
        }
    fi
    newest=$(checkpoint "$updates")
    [ -n "$newest" ] || fail "no checkpoint of update $updates in $run; run again"
    cp "$newest" "$run/model.pt.partial"
    mv "$run/model.pt.partial" "$run/model.pt"
    end
}

translate() {
    [ ! -e "$run/generate.txt" ] || return 0
    begin translate "Translating $(wc -l <"$raw/test.de") verses, beam 4" "40 seconds"
    # fairseq loses the last sentences when their number is no multiple of 8, its default.
    local command=(
        fairseq-generate "$data" --user-dir fairseq_mem --path "$run/model.pt" --gen-subset test
        --beam 4 --max-len-a 1.2 --max-len-b 10 --cpu
        --max-tokens 6000 --required-batch-size-multiple 1
        --remove-bpe --tokenizer moses --source-lang de --target-lang en
    )
    show "${command[@]}"
    "${command[@]}" >"$run/generate.partial" 2>"$run/generate.log" || {
        tail -n 3 "$run/generate.log" >&2
        fail "fairseq-generate failed (above); run again"
    }
    mv "$run/generate.partial" "$run/generate.txt"
    end
}

score() {
    [ ! -e "$run/bleu.json" ] || return 0
    begin score "Scoring against the raw text" "2 seconds"
    # fairseq's D- lines are its detokenised translations.
    echo "+ grep ^D- $run/generate.txt | sort -V | cut -f 3 > $run/test.en"
    grep ^D- "$run/generate.txt" | sort -V | cut -f 3 >"$run/test.en"
    show sacrebleu "$raw/test.en" --input "$run/test.en" --language-pair de-en --metrics bleu
    sacrebleu "$raw/test.en" --input "$run/test.en" --language-pair de-en --metrics bleu >"$run/bleu.partial"
    mv "$run/bleu.partial" "$run/bleu.json"
    end
}

mkdir -p "$run" || fail "cannot make $run; set WORK to a folder that can be written to"
exec 9>>"$work/lock" || fail "cannot write in $work; set WORK to a folder that can be written to"
if command -v flock >/dev/null; then
    flock -n 9 || fail "another quickstart is working in $work; wait for it, or set WORK"
fi
echo "Commands are shown behind a +. To copy them: cd $root; PATH=$(dirname "$PYTHON"):\$PATH"

fetch
prepare
train
translate
score
"$PYTHON" examples/quickstart/report.py "$work" "$run"
