#!/usr/bin/env bash
# Trains audiostory-mini from zero: corpora, tokenizers, codec, text to audio, hearing, planner, reading, stages I to III, and packs it.
#   bash scripts/train_mini.sh                        everything, into runs/ and corpora/ (some hours on two CPU cores)
#   bash scripts/train_mini.sh planner stage1         these steps alone, in the order given
#   bash scripts/train_mini.sh codec,tangoflux+planner   chains of steps side by side, each on a core of its own
#   RUNTIME=single_gpu bash scripts/train_mini.sh
# Every step goes on where it was stopped, and one that is finished ends in seconds. docs/MINI.md has times and results.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python}"                  # such as .venv/bin/python
WORKERS="${WORKERS:-2}"                     # processes that write corpora
[ -n "${RUNTIME:-}" ] || { command -v g++ >/dev/null && RUNTIME=cpu_compiled || RUNTIME=cpu; }

world() { "$PYTHON" scripts/make_soundworld.py "corpora/$1" --workers "$WORKERS" "${@:2}"; }
train() { "$PYTHON" train.py "stage=$1" "runtime=$RUNTIME" "${@:2}"; }
encode() { # what is encoded, by which run, of which corpora
    for corpus in "${@:3}"; do
        "$PYTHON" scripts/encode_latents.py "corpora/$corpus/manifest.jsonl" "--$1" "runs/$2/export" --output "corpora/$corpus/latents"
    done
}

RECORDED=(clips-train clips-val stories-train stories-val continuations-train continuations-val)
HEARD=(questions-train questions-val continuations-train continuations-val)

corpora() {
    world clips-train --kind clip --split train --num 24000
    world clips-val --kind clip --split val --num 300
    world texts-train --kind story --split train --num 200000 --seed 1000000 --no-audio
    world texts-mixed --kind story --split train --num 200000 --seed 3000000 --no-audio --mixed
    world text-questions-train --kind question --split train --num 40000 --per_story 8 --seed 400000 --no-audio
    world text-questions-val --kind question --split val --num 150 --seed 400000 --no-audio
    world stories-train --kind story --split train --num 3000
    world stories-val --kind story --split val --num 200
    world questions-train --kind question --split train --num 15000 --per_story 8 --seed 200000
    world questions-val --kind question --split val --num 150 --seed 200000
    world continuations-train --kind continuation --split train --num 4000
    world continuations-val --kind continuation --split val --num 150
}
tokenizers() {
    [ -f runs/tokenizers/tokenizer/tokenizer.json ] || "$PYTHON" scripts/make_tokenizer.py --vocab_size 1400 --num_residual 16 --output runs/tokenizers \
        --manifest corpora/{texts,clips,questions,continuations}-train/manifest.jsonl
}
codec() { train codec && encode codec codec "${RECORDED[@]}"; }
tangoflux() { train tangoflux && encode text_encoder tangoflux "${RECORDED[@]}" texts-train texts-mixed; }
hearing() { train hearing && encode audio_encoder hearing "${HEARD[@]}"; }
planner() { train planner; }
reading() { train reading; }
stage1_warmup() { train stage1_warmup; }
stage1() { train stage1; }
stage2() { train stage2; }
stage3() { train stage3; }
pack() {
    "$PYTHON" scripts/pack_model.py runs/stage3/export --output audiostory/assets/audiostory-mini
}

STEPS=(corpora tokenizers codec tangoflux hearing planner reading stage1_warmup stage1 stage2 stage3 pack)
# The words need no sound and the sounds no words, until the bridge brings them together.
APART="codec,tangoflux,hearing+planner,reading"
[ $# -gt 0 ] || set -- corpora tokenizers "$APART" stage1_warmup stage1 stage2 stage3 pack
for step in ${*//[,+]/ }; do
    [[ " ${STEPS[*]} " == *" $step "* ]] || { echo "train_mini.sh: no step $step; there are ${STEPS[*]}" >&2; exit 2; }
done

trap 'exit 130' INT TERM # the step saves and ends well, and must not be followed by the next
chain() { # steps with commas between them
    local step
    for step in ${1//,/ }; do
        echo "== $step"
        "$step"
    done
}
side_by_side() { # chains with a plus between them; when one fails or the script is stopped, all save and stop
    local groups=() one
    set -m # each in a process group of its own
    for one in ${1//+/ }; do
        OMP_NUM_THREADS=1 chain "$one" &
        groups+=("$!")
    done
    trap 'for one in "${groups[@]}"; do kill -TERM -- "-$one" 2>/dev/null || true; done; wait' EXIT
    for one in "${groups[@]}"; do wait -n || exit 1; done
    trap - EXIT
    set +m
}
for step in "$@"; do
    if [[ "$step" == *+* ]]; then side_by_side "$step"; else chain "$step"; fi
done
