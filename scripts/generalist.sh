#!/usr/bin/env bash
# Train the checkpoints of the catalogue from scratch: a tiny for all tasks and a nano beside it. With --quick, only a
# nano for ten tasks. The same command resumes after a kill.
#
#     scripts/generalist.sh [--quick] [FOLDER]
set -euo pipefail
quick=
[[ ${1:-} == --quick ]] && quick=1 && shift
folder=${1:-generalist}
export OMP_NUM_THREADS=1 # two processes of one thread each are faster than one of two
mkdir -p "$folder"
# The faster precision of the first machine, kept: a run resumes only with equal options.
[[ -e $folder/precision ]] || (grep -qs avx512_bf16 /proc/cpuinfo && echo bfloat16 || echo float32) >"$folder/precision"
precision=$(<"$folder/precision")
echo "The cost is estimated, not yet measured: $([[ $quick ]] && echo half an hour || echo a day) on two cores." \
    "$folder/log.tsv has the times of its phases."

# Each phase's beginning, with the commit and the machine: what it cost is the difference of the times.
machine="$(OMP_NUM_THREADS= nproc) cores of an$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2-), $precision"
phase() { printf '%s\t%s\t%s\t%s\n' "$(date -u +%FT%TZ)" "$(git describe --always --dirty)" "$machine" "$*" >>"$folder/log.tsv"; }

# Noisy expert episodes, states that an agent visits with the labels of the experts (DAgger), and a training.
noisy() { gato-agent collect "$@" --noise --workers 2 --out "$folder/data"; }
met() { gato-agent collect "$@" --dagger "$folder/first" --workers 2 --out "$folder/met"; }
learn() { # OUT, then options
    local out=$1 resume=()
    [[ -e $out/trained ]] && return # its episodes need not be read again
    [[ -e $out/config.json ]] && resume=(--resume)
    torchrun --standalone --nproc-per-node 2 -m gato_agent train --out "$out" "${resume[@]}" --batch-size 8 \
        --min-segment 16 --schedule wsd --optimizer muon --learning-rate 3e-3 --weight-decay 0.1 --bin-label-smoothing 8 \
        --prompt text --num-threads 1 --precision "$precision" --save-dtype bfloat16 --save-every 100 --holdout 0.03 \
        "${@:2}"
    touch "$out/trained"
}
results() { # RUN, OUT, episodes, then tasks
    gato-agent evaluate --checkpoint "$1" --out "$2" --episodes "$3" --workers 2 "${@:4}"
}
# The share of each family in the tokens; `by_need.py` divides it among its tasks by what they lack of the expert.
shares='{"babyai": 0.42, "mujoco": 0.13, "metaworld": 0.09, "babyai_rgb": 0.08, "minatar": 0.08, "bullet": 0.06,
    "atari": 0.05, "box2d": 0.045, "classic": 0.015, "panda": 0.01, "robotics": 0.01, "toytext": 0.01}'
all_tasks() {
    # More episodes where they are short, fewer of Atari's, which are large.
    phase noisy
    noisy --suite babyai --episodes 1500
    local short=(ActionObjDoor GoToDoor GoToLocal{,S5N2,S6N{2,3,4},S7N{4,5},S8N{2,3,4,5,6,7}} GoToObj{,Door,S4}
        GoToRed{Ball,BallGrey,BallNoDists,BlueBall} OneRoomS{8,12} OpenDoor{,Color,Loc} OpenRedDoor PickupDist
        PutNextLocalS6N4)
    noisy --env $(printf 'BabyAI-%s-v0 ' "${short[@]}") BabyAI-GoToObjS6-v1 --episodes 3000
    noisy --env BabyAI-{PutNextS4N1,PutNextS5N1,PutNextS5N2,OpenRedBlueDoorsDebug}-v0 --episodes 2800
    noisy --env BabyAI-{PickupLoc,PickupDistDebug,OpenDoorDebug,PutNextLocalS5N3}-v0 --episodes 4400
    noisy --suite babyai_rgb --episodes 5000
    noisy --suite panda --episodes 3000
    noisy --suite robotics --episodes 600
    noisy --suite mujoco --episodes 300
    noisy --suite box2d bullet minatar --episodes 200
    noisy --env MinAtar/Breakout-v1 --episodes 1000
    noisy --env MinAtar/SpaceInvaders-v1 --episodes 500
    noisy --suite metaworld --episodes 200
    noisy --suite toytext --episodes 1000
    noisy --suite classic --episodes 100
    noisy --suite atari --episodes 60

    phase first
    learn "$folder/first" --data "$folder/data" --size tiny --model.context 512 --warmup 100 --steps 5000 --mixture \
        babyai=5.3 mujoco=12 babyai_rgb=16 minatar=25 metaworld=1.3 bullet=12 box2d=11 classic=3 panda=15 robotics=15 \
        atari=5 toytext=1.7

    phase met
    met --env Ant-v5 HalfCheetah-v5 Hopper-v5 Humanoid-v5 Walker2d-v5 --episodes 40
    met --env InvertedPendulum-v5 InvertedDoublePendulum-v5 --episodes 300
    met --suite bullet babyai --episodes 25
    met --suite classic --episodes 40
    met --suite box2d --episodes 20
    met --suite metaworld --episodes 10
    met --env MinAtar/Freeway-v1 MinAtar/SpaceInvaders-v1 --episodes 12
    met --env MinAtar/Breakout-v1 --episodes 40
    met --suite atari --episodes 15
    met --suite babyai_rgb --episodes 120

    phase evaluate first
    results "$folder/first" "$folder/first/results" 10 --seed 2000000 --suite all # not the seeds of the table
    local needed
    read -ra needed <<<"$(python scripts/by_need.py "$folder/first/results" "$shares")"
    local data=("$folder/data" "$folder/met")
    phase run
    learn "$folder/run" --data "${data[@]}" --init "$folder/first" --warmup 30 --steps 10400 --decay-steps 6000 \
        --loss-over timesteps --mixture "${needed[@]}"
    phase evaluate run
    python scripts/temperatures.py "$folder/run" --suite babyai babyai_rgb minatar
    python scripts/temperatures.py "$folder/run" --suite atari --tried 0 1 --episodes 5
    results "$folder/run" "$folder/results" 50 --suite all

    phase nano
    learn "$folder/nano" --data "${data[@]}" --size nano --warmup 100 --steps 9000 --decay-steps 5000 \
        --loss-over timesteps --mixture "${needed[@]}"
    phase evaluate nano
    results "$folder/nano" "$folder/nano/results" 10 --suite all
}
ten_tasks() {
    local tasks=(CartPole-v1 Acrobot-v1 MountainCar-v0 Pendulum-v1 Taxi-v4 CliffWalking-v1 InvertedPendulum-v5
        Meta-World/reach-v3 BabyAI-GoToRedBallNoDists-v0 BabyAI-GoToObjS4-v0)
    phase noisy
    noisy --env "${tasks[@]}" --episodes 150
    phase first
    learn "$folder/first" --data "$folder/data" --size nano --model.context 256 --warmup 50 --steps 1500
    phase met
    met --env "${tasks[@]}" --episodes 50
    phase run
    learn "$folder/run" --data "$folder/data" "$folder/met" --init "$folder/first" --warmup 30 --steps 1500 \
        --decay-steps 1200
    phase evaluate
    results "$folder/run" "$folder/results" 20 --env "${tasks[@]}"
}
if [[ $quick ]]; then ten_tasks; else all_tasks; fi
gato-agent report "$folder/results" --checkpoint "$folder/run" --out "$folder/report"
phase end
cut -f 1,2,4 "$folder/log.tsv"
