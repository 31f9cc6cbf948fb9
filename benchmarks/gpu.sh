#!/usr/bin/env bash
# Every figure that needs a CUDA device, in a few minutes: tables on the terminal, the same as JSON in a folder.
#     benchmarks/gpu.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-figures}
mkdir -p "$out"
export PYTHONPATH=.

say() { echo "== ${SECONDS}s: $*"; "$@"; }
step() { say gato-agent bench step --device cuda --precision bfloat16 --repeats 200 --json "$out/$1.json" "${@:2}"; }

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv
python -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
say python -m pytest -n0 -q -m gpu tests/gato_agent/test_gpu.py tests/gato_agent/test_flex.py

# A control step: >= 120 Hz of `large` with 7 action tokens, >= 500 Hz of `small`, each <= 1.4 times its floor.
step large --size large --task 17/7 --no-compare --compiled
step small --size small --task 4/1 17/7 --compiled
# 1,024 environments at once: >= 100,000 steps a second.
step lanes --size tiny --task 4/1 --lanes 1024 --no-compare
step lanes-128 --size tiny --task 4/1 --lanes 1024 --no-compare --context 128
# What bfloat16 changes: >= 99.9% of greedy actions are the same.
say python benchmarks/precision.py --device cuda --precision bfloat16 --steps 10000 \
    --env CartPole-v1 BabyAI-GoToObj-v0 HalfCheetah-v5 | tee "$out/precision.md"
# Training: >= half of the peak of a matrix product.
say gato-agent bench train --device cuda --size baseline --precision bfloat16 --batch-size 8 --json "$out/train.json"
echo "== ${SECONDS}s: done; the figures are in $out"
