#!/usr/bin/env bash
# All measurements that need a CUDA device, in a few minutes: tables on the terminal and JSON files in a folder.
#     benchmarks/gpu.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
mkdir -p "$out"
export PYTHONPATH=.

say() { echo "== ${SECONDS}s: $*" >&2; "$@"; }
step() { say gato-agent bench step --device cuda --precision bfloat16 --no-compare --json "$out/$1.json" "${@:2}"; }

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv
python -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
# A control step: >= 120 Hz of `large` with 7 action tokens, >= 500 Hz of `small`, each <= 1.4x roofline.
step large --size large --task 17/7
step small --size small --task 4/1 17/7
# 1,024 environments at once: >= 100,000 steps a second.
step envs --size tiny --task 4/1 --n-envs 1024
step envs-128 --size tiny --task 4/1 --n-envs 1024 --context 128
# The shipped model with an instruction prompt, as most of its tasks have.
step prompt --size tiny --task 4/1 17/6 --prompt 7
# Agreement of bfloat16 with float32: >= 99.9% of greedy actions are the same.
say python benchmarks/precision.py --device cuda --precision bfloat16 --steps 5000 \
    --env CartPole-v1 BabyAI-GoToObj-v0 HalfCheetah-v5 | tee "$out/precision.md"
# Training: >= half of the peak of a matrix product.
say gato-agent bench train --device cuda --size baseline --precision bfloat16 --batch-size 8 --json "$out/train.json"
# Exactness last, so that a failure keeps the measurements.
say python -m pytest -n 4 -q -m gpu tests
echo "== ${SECONDS}s: done; results are in $out"
