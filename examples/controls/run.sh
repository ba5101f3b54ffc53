#!/usr/bin/env bash
# Memory against cheaper explanations, on both trials. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: examples/controls/run.sh [--jobs N] [translation] [language] [activations] [alignment]

Trains models without memory, with a sink, with 10 static keys and values and with 10 memory tokens,
seeds 1 2 3, and compares them. The stages, all of them by default:

  translation  the trial of wmt14_de_en (SIZE=trial) on the quickstart's verses: loss, BLEU, chrF,
               with intervals; 15 runs of about 10 minutes on one core
  language     the trial of wikitext103: perplexity; 12 runs of about 10 minutes
  activations  the largest activations and where attention goes, of the translation models
  alignment    the error of --print-alignment, of the translation models and of mem-20

Stop it at any point and run it again: it continues. Run `make quickstart` before translation, and
`examples/wikitext103/prepare.sh --small` before language.

  RUNS=FOLDER   the runs (default examples/controls/runs)
  DATA=FOLDER   of the translation (default examples/quickstart/work/data-bin)
  LINES=N       of the test set, for the activations (default 200)
  DRY_RUN=1     show the commands only
  VENV=FOLDER   the environment of `make install` (default .venv)
HELP
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=scripts/recipe.sh
source "$root/scripts/recipe.sh"

jobs=1 stages=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --jobs) jobs=${2:-} && shift ;;
    translation | language | activations | alignment) stages+=("$1") ;;
    *) fail "there is no stage $1; see --help" ;;
    esac
    shift
done
positive_number "--jobs " "$jobs"
[ ${#stages[@]} -gt 0 ] || stages=(translation language activations alignment)
runs=$here/runs data=$root/examples/quickstart/work/data-bin
[ -z "${RUNS:-}" ] || runs=$(absolute_path "$RUNS")
[ -z "${DATA:-}" ] || data=$(absolute_path "$DATA")
use_environment "${VENV:-$root/.venv}" fairseq-mem
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
raw=$(dirname "$data")/raw
seeds=(1 2 3)

run() { # a command, or its words alone
    if [ -n "${DRY_RUN:-}" ]; then show "$@"; else "$@"; fi
}

for stage in "${stages[@]}"; do
    echo "controls: $stage"
    case $stage in
    translation)
        RUNS=$runs/translation DATA=$data DATA_NAME=verses run "$root/examples/wmt14_de_en/table.sh" \
            --sizes trial --jobs "$jobs" --seeds "${seeds[@]}" \
            --models baseline sink static-10 mem-10 mem-20
        ;;
    language)
        RUNS=$runs/language run python -m fairseq_mem.runs table \
            --script "$root/examples/wikitext103/run.sh" --runs "$runs/language" \
            --default-models baseline sink static-10 mem-10 --default-seeds "${seeds[@]}" \
            --default-sizes trial -- --jobs "$jobs"
        ;;
    activations)
        [ -n "${DRY_RUN:-}" ] || mkdir -p "$runs"
        for language in de en; do
            [ -n "${DRY_RUN:-}" ] ||
                head -n "${LINES:-200}" "$raw/test.$language" >"$runs/lines.$language"
        done
        for model in baseline sink static-10 mem-10; do
            for seed in "${seeds[@]}"; do
                out=$runs/activations/$model-$seed
                [ ! -e "$out/attention.md" ] || continue
                run fairseq-mem attention \
                    "$runs/translation/trial/$model/seed-$seed/model.pt" --data "$data" \
                    --input "$runs/lines.de" --target "$runs/lines.en" --out "$out" --pages 0
            done
        done
        run python "$here/activations.py" "$runs/activations"
        ;;
    alignment)
        run python "$here/alignment.py" "$data" \
            "$runs"/translation/trial/{baseline,sink,static-10,mem-10,mem-20}/seed-{1,2,3}
        ;;
    esac
done
