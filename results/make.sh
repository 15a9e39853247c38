#!/usr/bin/env bash
# Everything under results/ but the chaos table (make chaos) comes from here: make results. Hours on two CPU cores; it
# resumes, and what is on record under results/scratch/records is not run again. To make everything anew, remove that folder
# first: your backbones are others, and the rows of a table must descend from one.
#   DATA   the authors' files (data/ and eval/, see docs/data.md), default authors/
#   WORK   where datasets and runs are kept, default runs/
#   JOBS   processes that divide the runs of a table among them, default 2
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-authors}
WORK=${WORK:-runs}
JOBS=${JOBS:-2}
export PATH="$PWD/.venv/bin:$PATH"

# The main job: a model made from scratch on the paper's Goodreads data, before and after self-play, three seeds.
# The backbone is made once (its seed is its own); each seed has its own SFT and self-play.
test -d "$WORK/data/goodreads" || sprec data import sprec "$DATA" --name Goodreads -o "$WORK/data/goodreads"
runs=()
for seed in 0 1 2; do
    run="$WORK/goodreads-scratch/seed$seed"
    sprec run goodreads-scratch --data "$WORK/data/goodreads" -o "$run" --set seed="$seed" --shared results/scratch/stages
    mkdir -p "results/goodreads-scratch/seed$seed"
    cp "$run/metrics.json" "$run/recipe.json" "results/goodreads-scratch/seed$seed/"
    runs+=("$run")
done
sprec compare "${runs[@]}"

for name in MovieLens CDs_and_Vinyl Steam; do
    test -d "$WORK/data/$name" || sprec data import sprec "$DATA" --name "$name" -o "$WORK/data/$name"
done
three=(--datasets "$WORK/data/goodreads" --datasets "$WORK/data/MovieLens")
one=(--datasets "$WORK/data/CDs_and_Vinyl" --datasets "$WORK/data/Steam")

# Learning rates, three for each method, judged on the validation cases of all datasets. The recipes carry what was chosen.
sprec reproduce rates "${three[@]}" "${one[@]}" -o results/scratch --jobs "$JOBS"

# Tables 2 and 3: three seeds on Goodreads and MovieLens, one on CDs and Steam, which takes hours less. What is on record
# is not run again.
for table in table2 table3; do
    sprec reproduce $table "${three[@]}" -o results/scratch --jobs "$JOBS"
    sprec reproduce $table "${one[@]}" --seeds 0 -o results/scratch --jobs "$JOBS"
done

# From the records alone: the tables of all datasets together, the unfairness of each genre, what the paper claims.
for what in table1 table2 table3 figure3 claims; do
    sprec reproduce $what "${three[@]}" "${one[@]}" -o results/scratch --recorded
done

# Figures 4 to 6 with one seed.
sprec reproduce figure4 --datasets "$WORK/data/MovieLens" --seeds 0 -o results/scratch --jobs "$JOBS"
sprec reproduce figure5 --datasets "$WORK/data/goodreads" --seeds 0 -o results/scratch --jobs "$JOBS"
sprec reproduce figure6 --datasets "$WORK/data/goodreads" --only 1 --only 3 --only 5 --seeds 0 -o results/scratch --jobs "$JOBS"

python docs/build.py
