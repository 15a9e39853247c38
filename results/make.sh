#!/usr/bin/env bash
# Everything under results/ but the chaos table (make chaos) comes from here: make results. Hours on two CPU cores; it
# resumes, and what is on record under results/scratch/records is not run again.
#   DATA   the authors' files (data/ and eval/), default ../shared/data/sprec
#   WORK   where datasets and runs are kept, default runs/
#   JOBS   processes that divide the runs of a table among them, default 2
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-../shared/data/sprec}
WORK=${WORK:-runs}
JOBS=${JOBS:-2}
export PATH="$PWD/.venv/bin:$PATH"

# The main job: a model made from scratch on the paper's Goodreads data, before and after self-play, three seeds.
# The backbone is made once (its seed is its own); each seed has its own SFT and self-play.
test -d "$WORK/data/goodreads" || sprec data import sprec "$DATA" --name Goodreads -o "$WORK/data/goodreads"
runs=()
for seed in 0 1 2; do
    run="$WORK/goodreads-scratch/seed$seed"
    sprec run goodreads-scratch --data "$WORK/data/goodreads" -o "$run" --set seed="$seed" --shared "$WORK/stages"
    mkdir -p "results/goodreads-scratch/seed$seed"
    cp "$run/metrics.json" "$run/recipe.json" "results/goodreads-scratch/seed$seed/"
    runs+=("$run")
done
sprec compare "${runs[@]}" --json > results/goodreads-scratch/compare.json

# Learning rates, three for each method, judged on the validation cases. What is on record is not run again.
sprec reproduce rates --datasets "$WORK/data/goodreads" --backbone results/search.yaml -o results/scratch --jobs "$JOBS"

# Table 2: all methods, three protocols, three seeds, and the floor.
sprec reproduce table2 --datasets "$WORK/data/goodreads" -o results/scratch --jobs "$JOBS"

# Table 3: the ablations; then what the paper claims about both tables.
sprec reproduce table3 --datasets "$WORK/data/goodreads" -o results/scratch --jobs "$JOBS"
sprec reproduce claims --datasets "$WORK/data/goodreads" -o results/scratch --jobs "$JOBS"

python docs/build.py
