#!/usr/bin/env bash
# One set of weights for all tasks of the catalogue, from nothing. Killed anywhere, the same command goes on.
#
#     scripts/generalist.sh [FOLDER]
set -euo pipefail
folder=${1:-generalist}
export OMP_NUM_THREADS=1 # two processes of one thread each wait less for each other than two threads do
mkdir -p "$folder"

# Experts' episodes, some of whose actions are random: many where they are short, and of Atari's, which are large, few.
noisy() { gato-agent collect "$@" --noise --workers 2 --out "$folder/data"; }
noisy --suite babyai mujoco --episodes 300
noisy --suite babyai_rgb --episodes 2000
noisy --suite panda --episodes 3000
noisy --suite robotics --episodes 600
noisy --suite box2d bullet minatar --episodes 200
noisy --suite classic metaworld toytext --episodes 100
noisy --suite atari --episodes 10

# Shares of the tokens: more where a task is hard.
mixture='{"metaworld": 0.65, "babyai": 0.4, "mujoco": 5, "Humanoid-v5": 9, "HalfCheetah-v5": 8, "Walker2d-v5": 7,
    "Hopper-v5": 6, "Swimmer-v5": 1, "Reacher-v5": 2, "Pusher-v5": 1.5, "HumanoidStandup-v5": 2, "bullet": 5, "box2d": 4,
    "BipedalWalkerHardcore-v3": 7, "classic": 1.5, "toytext": 0.2, "panda": 2, "robotics": 3, "minatar": 3,
    "babyai_rgb": 2.5, "atari": 0.4}'
learn() { # OUT, then options
    local out=$1 resume=()
    [[ -e $out/state.safetensors ]] && resume=(--resume)
    torchrun --standalone --nproc-per-node 2 -m gato_agent train --out "$out" "${resume[@]}" --batch-size 16 \
        --shortest-fragment 16 --schedule wsd --optimizer muon --learning-rate 3e-3 --weight-decay 0.1 --smooth-bins 8 \
        --prompt text --num-threads 1 --precision bfloat16 --weights bfloat16 --save-every 100 --holdout 0.03 \
        --mixture "$mixture" "${@:2}"
}
learn "$folder/first" --data "$folder/data" --size tiny --shape '{"context": 256}' --warmup 100 --steps 2000

# What the agent meets when it acts itself, and what the experts would do there.
met() { gato-agent collect "$@" --dagger "$folder/first" --workers 2 --out "$folder/met"; }
met --env Ant-v5 HalfCheetah-v5 Hopper-v5 Humanoid-v5 Walker2d-v5 --episodes 40
met --env InvertedPendulum-v5 InvertedDoublePendulum-v5 --episodes 300
met --suite bullet --episodes 25
met --suite babyai_rgb --episodes 120

learn "$folder/run" --data "$folder/data" "$folder/met" --init "$folder/first" --warmup 20 --steps 2200 --decay-steps 1700

gato-agent evaluate --suite all --checkpoint "$folder/run" --episodes 50 --workers 2 --out "$folder/results"
gato-agent report "$folder/results" --out "$folder/report"
