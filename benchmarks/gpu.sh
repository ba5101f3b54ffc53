#!/usr/bin/env bash
# Everything that is to be seen on the day a GPU is there. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: benchmarks/gpu.sh [--device cuda|cpu] [--tiny] [--out FOLDER] [--parts PART ...]

On one card, in more than six minutes on an H200: a smoke test of every architecture in every
precision, the waits, training at base and big size, beam search, memory, several trainings at a
time. Ends with one Markdown file, FOLDER/gpu.md, and one JSON file for each part. A part that fails
leaves the others alone; the exit status then is 1.

  --device   cuda (default), or cpu, which is how this script is tested
  --tiny     does it run? the smallest models, one round; the figures mean nothing
  --out      default benchmarks/results/gpu
  --parts    some of smoke, waits, training, generation, memory, together (default: all)

  TEXT=DATA_BIN   several trainings at a time take their batches from this binarised data
  PYTHON=PROGRAM  default: that of .venv, or python3
HELP
}

device=cuda tiny='' parts=() out=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --device | --out)
        [ $# -ge 2 ] || { echo "gpu.sh: $1 needs a value; see --help" >&2 && exit 2; }
        [ "$1" = --out ] && out=$2 || device=$2
        shift 2
        ;;
    --tiny) tiny=--quick && shift ;;
    --parts)
        shift
        while [ $# -gt 0 ] && [[ $1 != --* ]]; do parts+=("$1") && shift; done
        ;;
    *) echo "gpu.sh: $1: there is no such option; see --help" >&2 && exit 2 ;;
    esac
done
case $device in cpu | cuda) ;; *) echo "gpu.sh: --device $device: give cuda or cpu" >&2 && exit 2 ;; esac
[ ${#parts[@]} -gt 0 ] || parts=(smoke waits training generation memory together)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${out:-$root/benchmarks/results/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || python=python3
cd "$root"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

sizes=(base big) rounds=3 batches=6 contestants=(fairseq fairseq-our-flags mem-10 mem-20 mem-bottleneck-20)
tokens=4096
if [ -n "$tiny" ]; then
    sizes=(small) rounds=1 batches=1 contestants=(fairseq mem-10) tokens=200
fi

part() { # NAME: its report goes to OUT/NAME.md; notes in OUT/failed if it failed
    local name=$1 arguments=() begin=$SECONDS
    case $name in
    smoke | waits) ;;
    training)
        arguments=(--sizes "${sizes[@]}" --lengths real --rounds "$rounds" --batches "$batches"
            --batch-tokens "$tokens" --contestants "${contestants[@]}")
        ;;
    generation) arguments=(--sizes "${sizes[@]}" --rounds "$rounds") ;;
    memory) arguments=(--sizes "${sizes[@]}") ;;
    together)
        arguments=(--sizes iwslt)
        [ -z "${TEXT:-}" ] || arguments+=(--text "$TEXT")
        [ -z "$tiny" ] || arguments=(--sizes small --batch-tokens 200)
        ;;
    esac
    rm -f "$out/$name".{md,json}
    "$python" benchmarks/run.py --suites "$name" --device "$device" ${tiny:+"$tiny"} \
        --results "$out" "${arguments[@]}" >"$out/$name.out" 2>"$out/$name.err" ||
        echo "$name" >>"$out/failed"
    echo "gpu.sh: $name: $((SECONDS - begin)) s"
}

rm -f "$out/failed"
for name in "${parts[@]}"; do # what is not timed goes side by side
    case $name in
    smoke | waits | memory) part "$name" & ;;
    training | generation | together) ;;
    *) echo "gpu.sh: --parts $name: there is no such part; see --help" >&2 && exit 2 ;;
    esac
done
wait
for name in "${parts[@]}"; do
    case $name in training | generation | together) part "$name" ;; esac
done

for name in "${parts[@]}"; do
    if [ -e "$out/$name.md" ]; then
        cat "$out/$name.md" && echo
    else
        printf '## %s\n\nFailed: %s\n\n' "$name" "$(tail -n 1 "$out/$name.err")"
    fi
done >"$out/gpu.md.partial"
mv "$out/gpu.md.partial" "$out/gpu.md"
cat "$out/gpu.md"
echo "gpu.sh: $SECONDS s in all; $out/gpu.md"
if [ -e "$out/failed" ]; then
    echo "gpu.sh: not all came through: $(sort "$out/failed" | paste -sd ' ')" >&2
    exit 1
fi
