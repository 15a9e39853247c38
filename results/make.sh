#!/usr/bin/env bash
# results/scratch/ and results/variants/ come from here: make results. (The chaos table: make chaos. The picture of the README: make
# picture. results/frontier/: sprec reproduce frontier. Pretrained models: results/smollm2.sh.) Hours on two CPU cores; it
# resumes, and what is on record under $OUT/records is not run again. To make everything anew, take another folder: your
# backbones are others, and the rows of a table must descend from one.
#   OUT    where tables, figures and records are kept, default results/scratch/
#   VARIANTS  the same for the variants of the baselines, which descend from other backbones, default results/variants/
#   FRONTIER  the same for the strong baselines, default results/frontier/
#   DATA   the authors' files (data/ and eval/), default authors/: sprec data fetch sprec-sampled -o authors
#   WORK   where datasets and runs are kept, default runs/
#   JOBS   processes that divide the runs of a table among them, default 2
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-results/scratch}
VARIANTS=${VARIANTS:-results/variants}
FRONTIER=${FRONTIER:-results/frontier}
DATA=${DATA:-authors}
WORK=${WORK:-runs}
JOBS=${JOBS:-2}
export PATH="$PWD/.venv/bin:$PATH"

mkdir -p "$WORK/data"
for name in Goodreads MovieLens CDs_and_Vinyl Steam; do
    test -d "$WORK/data/$name" || sprec data import sprec "$DATA" --name "$name" -o "$WORK/data/$name"
done
three=(--datasets "$WORK/data/Goodreads" --datasets "$WORK/data/MovieLens")
one=(--datasets "$WORK/data/CDs_and_Vinyl" --datasets "$WORK/data/Steam")

# Learning rates, three for each method, judged on the validation cases of all datasets. The recipes carry what was chosen.
sprec reproduce rates "${three[@]}" "${one[@]}" -o "$OUT" --jobs "$JOBS"

# Tables 2 and 3: three seeds on Goodreads and MovieLens; one on CDs and Steam, and there the ablations by the paper's
# protocol only, which takes hours less.
sprec reproduce table2 "${three[@]}" -o "$OUT" --jobs "$JOBS"
sprec reproduce table2 "${one[@]}" --seeds 0 -o "$OUT" --jobs "$JOBS"
sprec reproduce table3 "${three[@]}" -o "$OUT" --jobs "$JOBS"
sprec reproduce table3 "${one[@]}" --seeds 0 --protocols paper -o "$OUT" --jobs "$JOBS"

# From the records alone: the tables of all datasets together, accuracy against diversity, the unfairness of each genre,
# what the paper claims.
for what in table1 table2 table3 tradeoff figure3 claims; do
    sprec reproduce $what "${three[@]}" "${one[@]}" -o "$OUT" --recorded
done

# Strong baselines, their product and the tilt beside these systems. Their scores stay under $FRONTIER/scores, out of git.
sprec reproduce frontier "${three[@]}" "${one[@]}" -o "$FRONTIER" --table2 "$OUT" \
    --only "SASRec, sampled softmax" --only "kNN x SASRec"

# Figures 4 to 6 with one seed.
sprec reproduce figure4 --datasets "$WORK/data/MovieLens" --seeds 0 -o "$OUT" --jobs "$JOBS"
sprec reproduce figure5 --datasets "$WORK/data/Goodreads" --seeds 0 -o "$OUT" --jobs "$JOBS"
sprec reproduce figure6 --datasets "$WORK/data/Goodreads" --only 1 --only 3 --only 5 --seeds 0 -o "$OUT" --jobs "$JOBS"

# The baselines as their papers have them and as the research code ran them.
goodreads=(--datasets "$WORK/data/Goodreads")
cds=(--datasets "$WORK/data/CDs_and_Vinyl")
sprec reproduce variants "${goodreads[@]}" -o "$VARIANTS" --jobs "$JOBS"
sprec reproduce variants "${cds[@]}" --seeds 0 -o "$VARIANTS" --jobs "$JOBS"
sprec reproduce variants "${goodreads[@]}" "${cds[@]}" -o "$VARIANTS" --recorded

# One file of records for each dataset instead of hundreds.
python results/rekey.py "$OUT" "$WORK"/data/{Goodreads,MovieLens,CDs_and_Vinyl,Steam}
python results/rekey.py "$VARIANTS" "$WORK"/data/{Goodreads,CDs_and_Vinyl}

if [ "$OUT" = results/scratch ]; then python docs/build.py; fi
