"""Gymnasium's MuJoCo robots, `Hopper-v5` and so on."""

from gato_agent.envs.tasks.packages import Suite

SUITE = Suite(
    ids=r"(Ant|HalfCheetah|Hopper|Humanoid|HumanoidStandup|Inverted(Double)?Pendulum|Pusher|Reacher|Swimmer|Walker2d)-v",
    extra="mujoco",
    packages=("mujoco",),
    distributions=("mujoco",),
)
