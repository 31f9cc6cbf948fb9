"""panda-gym's robot arm, `PandaReach-v3` and so on."""

from gato_agent.envs.tasks.packages import Suite

SUITE = Suite(
    ids=r"Panda",
    extra="panda",
    packages=("panda_gym",),
    distributions=("panda_gym", "pybullet"),
    module="panda_gym",
)
