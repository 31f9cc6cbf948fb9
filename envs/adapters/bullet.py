"""PyBullet's robots, `HopperBulletEnv-v0` and so on."""

from gato_agent.envs.tasks.packages import Suite

SUITE = Suite(
    ids=r"\w+BulletEnv-",
    extra="bullet",
    packages=("pybullet_envs_gymnasium", "pybullet"),
    distributions=("pybullet_envs_gymnasium", "pybullet"),
    module="pybullet_envs_gymnasium",
    stateful_reset=r"\w+BulletEnv-",
)
