#!/usr/bin/env bash
# The paper's tables with a pretrained model, SmolLM2-135M (recipe smollm2-135m): everything under results/smollm2/. It resumes: what is
# on record under $OUT/records is not run again, and a stage that was stopped goes on where it was.
#   SIZE   small (default): 1,024 sequences of adaptation, 512 examples of SFT, 3 iterations of 128, 200 cases. full: the sizes of the
#          recipe, 500 cases.
#   OUT    where runs, records and tables are kept, default results/smollm2/; another one for another size
#   DATA   the authors' files (data/ and eval/), default authors/: sprec data fetch sprec-sampled -o authors
#   WORK   where datasets are kept, default runs/
#   PARTS  which parts, in this order, default: movielens rates goodreads adapt lora pretraining others ablations seeds
#          consensus baselines tables
set -euo pipefail
cd "$(dirname "$0")/.."
SIZE=${SIZE:-small}
OUT=${OUT:-results/smollm2}
DATA=${DATA:-authors}
WORK=${WORK:-runs}
PARTS=${PARTS:-movielens rates goodreads adapt lora pretraining others ablations seeds consensus baselines tables}
export PATH="$PWD/.venv/bin:$PATH"

mkdir -p "$WORK/data"
for name in Goodreads MovieLens CDs_and_Vinyl Steam; do
    test -d "$WORK/data/$name" || sprec data import sprec "$DATA" --name "$name" -o "$WORK/data/$name"
done

case $SIZE in
small)
    cases=200
    read=1024
    short=(--set sft.samples=512 --set sft.epochs=1 --set sft.valid=64 --set loop.iterations=3 --set loop.samples=128
        --set sft_step.batch=8 --set prefer.batch=8 --set prefer.lr=5e-6)
    ;;
full) cases=500 read=null short=() ;;
*) echo "SIZE is small or full, not $SIZE" >&2 && exit 2 ;;
esac
sizes=(--set "backbone.adapt.samples=$read" "${short[@]}")
floor=(--only SASRec --only Popularity --only Random)

# Rows of a table by one protocol: table DATASET TABLE PROTOCOL [more options].
table() {
    local dataset=$1 what=$2 protocol=$3
    shift 3
    sprec reproduce "$what" --backbone smollm2-135m --datasets "$WORK/data/$dataset" --protocols "$protocol" -o "$OUT" \
        --set "cases=$cases" "${sizes[@]}" "$@"
}

both() { # DATASET SEED: BIGRec and SPRec by the paper's protocol and by exact search
    for row in BIGRec SPRec; do
        table "$1" table2 paper --seeds "$2" --only "$row"
        table "$1" table2 exact --seeds "$2" --only "$row"
    done
    table "$1" table2 paper --seeds "$2" "${floor[@]}"
}

judge() { # NAME [options]: BIGRec on the validation cases of Goodreads; its metrics go to $OUT/tries/NAME.json
    local name=$1
    shift
    sprec run smollm2-135m --data "$WORK/data/Goodreads" -o "$OUT/runs/$name" --shared "$OUT/stages" --set method=bigrec \
        --set split=valid --set cases=256 "${sizes[@]}" --set sft.samples=1024 "$@"
    mkdir -p "$OUT/tries" && cp "$OUT/runs/$name/metrics.json" "$OUT/tries/$name.json"
}

learns() { # NAME DATASET RECIPE [options]: a run of the part pretraining, asked by exact search
    local run="$OUT/pretraining/$2/$1" data="$WORK/data/$2" recipe=$3
    shift 3
    sprec run "$recipe" --data "$data" -o "$run" --shared "$OUT/stages" --set method=bigrec --set recommend.protocol=exact \
        --set "cases=$cases" "${short[@]}" "$@"
}

for part in $PARTS; do
    echo "== $part"
    case $part in
    movielens) both MovieLens 0 ;;
    goodreads) both Goodreads 0 ;;
    rates) # of the SFT, all parameters: three on the validation cases of Goodreads
        sprec reproduce rates --only BIGRec --backbone smollm2-135m --datasets "$WORK/data/Goodreads" -o "$OUT" \
            --set cases=256 "${sizes[@]}" --set sft.samples=1024
        ;;
    adapt) # length and rate of the adaptation, without SFT, by exact search on the validation cases of Goodreads
        for samples in 1024 2048 4096; do
            for rate in 1e-4 3e-4; do judge "adapt-$samples-$rate" --set backbone.adapt.samples=$samples --set backbone.adapt.lr=$rate \
                --set sft.epochs=0 --set recommend.protocol=exact; done
        done
        ;;
    lora) # two rates of adapters, judged alike
        for rate in 5e-4 1e-3; do
            judge "lora-$rate" --set 'backbone.lora={r: 16}' --set backbone.adapt.lr=$rate --set sft.lr=$rate
        done
        ;;
    pretraining) # what it helps: the pretrained model with and without adaptation and SFT, and one made from scratch on the same text
        for dataset in MovieLens Goodreads; do
            small="$(tr '[:upper:]' '[:lower:]' <<<"$dataset")-scratch"
            learns untrained $dataset smollm2-135m --set backbone.adapt=null --set sft.epochs=0
            learns sft $dataset smollm2-135m --set backbone.adapt=null
            learns adapted $dataset smollm2-135m --set "backbone.adapt.samples=$read" --set sft.epochs=0
            learns adapted-sft $dataset smollm2-135m --set "backbone.adapt.samples=$read"
            learns scratch $dataset "$small" --set "backbone.samples=$read" --set backbone.epochs=1
            learns scratch-20 $dataset "$small" --set "backbone.samples=$read" --set backbone.epochs=20
        done
        python results/pretraining.py "$OUT/pretraining.json" "$OUT"/pretraining/*/*
        ;;
    others) both CDs_and_Vinyl 0 && both Steam 0 ;;
    ablations)
        for dataset in Goodreads MovieLens; do
            table $dataset table3 paper --seeds 0 --only SPRec-RN --only SPRec-noSFT --only SPRec-noDPO
            table $dataset table2 paper --seeds 0 --only SDPO
        done
        ;;
    seeds) for seed in 1 2; do both Goodreads $seed && both MovieLens $seed; done ;;
    consensus)
        for dataset in Goodreads MovieLens; do
            table $dataset table2 consensus --seeds 0 --only BIGRec --only SPRec
        done
        ;;
    baselines)
        for dataset in Goodreads MovieLens; do
            table $dataset table2 paper --seeds 0 --only RW --only D3 --only DMPO --only RosePO
        done
        ;;
    tables) # of what is on record, all datasets together
        all=()
        for dataset in Goodreads MovieLens CDs_and_Vinyl Steam; do all+=(--datasets "$WORK/data/$dataset"); done
        for what in table2 table3; do
            sprec reproduce $what --backbone smollm2-135m "${all[@]}" -o "$OUT" --recorded --set "cases=$cases" "${sizes[@]}"
        done
        ;;
    *) echo "no part $part" >&2 && exit 2 ;;
    esac
done
