#!/usr/bin/env bash
# One set of weights for all tasks of the catalogue, from nothing. Killed anywhere, the same command goes on.
#
#     scripts/generalist.sh [FOLDER] [MINUTES of training]
set -euo pipefail
folder=${1:-generalist} minutes=${2:-120}
export OMP_NUM_THREADS=1 # two processes of one thread each wait less for each other than two threads do
mkdir -p "$folder"

# Experts' episodes, some of whose actions are random. Three games of Atari take as much room as all else: few of them.
suites=(babyai_rgb box2d bullet classic metaworld minatar mujoco panda robotics toytext)
gato-agent collect --suite babyai --noise --episodes 300 --workers 2 --out "$folder/data"
gato-agent collect --suite "${suites[@]}" --noise --episodes 100 --workers 2 --out "$folder/data"
gato-agent collect --suite atari --noise --episodes 10 --workers 2 --out "$folder/data"

run=$folder/run resume=()
[[ -e $run/state.safetensors ]] && resume=(--resume)
torchrun --standalone --nproc-per-node 2 -m gato_agent train --data "$folder/data" --out "$run" "${resume[@]}" \
    --size tiny --shape '{"context": 256}' --batch-size 16 --shortest-fragment 16 --steps 8000 --schedule wsd \
    --decay-steps 1600 --learning-rate 1.5e-3 --warmup 100 --smooth-bins 8 --prompt text --num-threads 1 \
    --precision bfloat16 --weights bfloat16 --save-every 100 --holdout 0.03 --minutes "$minutes" --mixture \
    '{"babyai": 0.3, "mujoco": 4, "box2d": 4, "bullet": 3, "classic": 4, "toytext": 0.2, "babyai_rgb": 0.4,
      "minatar": 2, "panda": 1.5, "robotics": 1.5}'

gato-agent evaluate --suite all --checkpoint "$run" --episodes 50 --workers 2 --out "$folder/results"
gato-agent report "$folder/results" --out "$folder/report"
