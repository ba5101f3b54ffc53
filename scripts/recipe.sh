# shellcheck shell=bash
# For the examples' run.sh, prepare.sh and the like, which source this before they go to the
# repository's root. What does the work is in fairseq_mem/runs. In messages they are called by their
# file's name, or as $recipe says.

# What the scripts run is this checkout, whatever is installed.
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$checkout:$checkout/serve${PYTHONPATH:+:$PYTHONPATH}"

fail() { # what is wrong, and what to do
    echo "${recipe:-$(basename "$0")}: $*" >&2
    exit 1
}

absolute_path() { # of a file that is named from the folder where the user is
    case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}

use_environment() { # FOLDER PROGRAM...: puts an environment's programs first, if it is there
    local program
    [ ! -d "$1/bin" ] || PATH="$(cd "$1/bin" && pwd):$PATH"
    for program in "${@:2}"; do
        command -v "$program" >/dev/null ||
            fail "$program is not there; run 'make install', or set VENV"
    done
}

whole_number() { # what it is, as GPUS= or "seed ", and the value
    [[ $2 =~ ^[0-9]+$ ]] || fail "$1$2: give a whole number"
}

positive_number() { # likewise, above 0
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1$2: give a whole number above 0"
}

count_gpus() { # of this machine
    python -c 'import torch; print(torch.cuda.device_count())'
}

# For training with --cpu. fairseq clips gradients on the GPU if it sees one, and --cpu then fails.
# glibc gives large blocks of memory back to the kernel after every use; keeping them makes
# training on a CPU about 4 % faster. OpenMP's threads don't burn a core while they wait.
use_cpu() {
    export CUDA_VISIBLE_DEVICES=
    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000 OMP_WAIT_POLICY=PASSIVE
}

show() { # a command, so that it can be copied
    printf '+'
    printf ' %q' "$@"
    printf '\n'
}

run() { # a command, and show it
    show "$@"
    "$@"
}

# Hands a run to Python, which does what is missing of it: see python -m fairseq_mem.runs.
run_stages() { # RECIPE RUN OPTION... ::: STAGE COMMAND... ::: STAGE COMMAND...
    if [ -n "${HAND_OVER:-}" ]; then # to a program that runs many (fairseq_mem/runs/cells.py)
        printf '%s\0' "$@"
        exit
    fi
    if [ -z "${DRY_RUN:-}" ] || [ -d "$2" ]; then
        exec python -m fairseq_mem.runs "$@"
    fi
    # Shown here what was never begun: Python needs seconds to load torch and fairseq.
    local word words=() stage=''
    for word in "$@" :::; do
        if [ "$word" != ::: ]; then
            words+=("$word")
        else
            [ -z "$stage" ] || show "${words[@]:1}"
            words=() stage=begun
        fi
    done
}
