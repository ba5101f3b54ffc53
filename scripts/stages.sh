# shellcheck shell=bash disable=SC2154
# The stages of a run, for the run.sh of the examples, which source this once they hold the run's
# folder: what they took goes into $run/seconds.STAGE, a failure's reason into $run/failed.txt, and a
# signal ends what is running at once. Needs run, model, seed, and fail().

stage=''
begin() { # stage, title
    stage=$1
    date +%s >"$run/began.$stage"
    echo "== $model, seed $seed: $2"
}
end() { # adds to the stage's seconds, over interruptions too
    [ -n "$stage" ] || return 0
    local seconds="$run/seconds.$stage" began="$run/began.$stage" now=${1:-$(date +%s)}
    echo $((now - $(cat "$began") + $(cat "$seconds" 2>/dev/null || echo 0))) >"$run/new.$stage"
    mv "$run/new.$stage" "$seconds"
    rm "$began"
    stage=''
}
child=''
interruptible() { # a command, or a pipeline in a function: a signal to this script ends it at once
    local status=0
    set -m # in a process group of its own
    "$@" </dev/null &
    child=$!
    set +m
    wait "$child" || status=$?
    child=''
    return $status
}
stop() {
    trap '' INT TERM
    [ -z "$child" ] || kill -- "-$child" 2>/dev/null || true
    wait || true
    end
    echo "run.sh: $model, seed $seed: stopped; run it again to continue" >&2
    exit 130
}
failed() { # leaves word for the report
    echo "$*" >"$run/failed.txt"
    end
    fail "$* (run again to continue)"
}
# A kill -9 left a beginning behind; its end is when the run's folder was last written to.
stopped=$(stat -c %Y "$run"/* | sort -n | tail -n 1)
for stage in "$run"/began.*; do
    [ ! -e "$stage" ] || { stage=${stage##*.} && end "$stopped"; }
done
stage=''
trap end EXIT
trap stop INT TERM
