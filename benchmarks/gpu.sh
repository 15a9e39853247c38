#!/usr/bin/env bash
# Everything that this project says of GPUs, measured within 12 minutes; a step that fails or takes too long does not stop the others.
# Records and logs go to OUT.
#   OUT    folder of the records, default build/gpu/
#   TINY   1: the same steps with a toy model on a CPU, in two minutes
#   PYTHON that has the packages, default .venv/bin/python, else python3
#   DATA   a folder with datasets Goodreads and MovieLens (sprec data import sprec ... --name Goodreads -o DATA/Goodreads) and
#   MODEL  a folder with the pretrained model (sprec backbone fetch smollm2-135m -o MODEL): where both are given, BIGRec and SPRec
#          with it on both datasets, seed 0, by the paper's protocol and exact
# Peers (TRL) are left out: the script needs sprec, torch, transformers, peft and accelerate only.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-build/gpu}
TINY=${TINY:-0}
test -x .venv/bin/python && PYTHON=${PYTHON:-$PWD/.venv/bin/python}
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT"
: >"$OUT/steps.txt"

step() { # NAME SECONDS COMMAND: what it prints goes to OUT/NAME.txt, and its last line, if that is JSON, to OUT/NAME.json
    local name=$1 limit=$2 began=$SECONDS code=0
    shift 2
    timeout "$limit" "$@" >"$OUT/$name.txt" 2>"$OUT/$name.log" || code=$?
    tail -n 1 "$OUT/$name.txt" | grep '^{' >"$OUT/$name.json" || rm -f "$OUT/$name.json"
    echo "$name: exit $code after $((SECONDS - began)) s" | tee -a "$OUT/steps.txt"
}

bench() { # NAME SECONDS SIZE [options]
    local name=$1 limit=$2 size=$3
    shift 3
    step "$name" "$limit" "$PYTHON" -m sprec bench --size "$size" --peers none --log "$OUT/$name-sides.log" --json "$@"
}

table() { # DATASET PROTOCOL
    step "$1-$2" 100 "$PYTHON" -m sprec reproduce table2 --backbone smollm2-135m --datasets "$DATA/$1" --protocols "$2" --seeds 0 \
        --only BIGRec --only SPRec -o "$OUT/smollm2" --set "backbone.path=$MODEL" --set cases=500
}

step doctor 60 "$PYTHON" -m sprec doctor
if [ "$TINY" = 1 ]; then
    step tests 100 "$PYTHON" -m pytest -q -rs -m gpu tests/engine/test_packing.py
    bench bench-toy 250 toy --parts dpo,rollout --samples 8 --batch 8 --repeats 1 --negatives 1 --device cpu
else
    step tests 200 "$PYTHON" -m pytest -q -rs -m gpu tests # packed against padded losses are among them
    bench bench-1b 200 1b --parts sft,dpo,rollout,beam --samples 512 --batch 128 --tokens 32768 --repeats 3 --negatives 1,5
    bench bench-135m 120 135m --parts sft,dpo,rollout,beam --samples 1024 --batch 128 --tokens 65536 --repeats 3 --negatives 1,5
    if [ -n "${DATA:-}" ] && [ -n "${MODEL:-}" ]; then
        for dataset in Goodreads MovieLens; do
            table $dataset paper && table $dataset exact
        done
    fi
fi
! grep -v 'exit 0 ' "$OUT/steps.txt" >&2
