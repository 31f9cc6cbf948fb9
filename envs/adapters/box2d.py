"""Gymnasium's Box2D environments, `LunarLander-v3` and so on."""

from gato_agent.envs.tasks.packages import Suite

SUITE = Suite(
    ids=r"(BipedalWalker|CarRacing|LunarLander)",
    extra="box2d",
    packages=("Box2D",),
    distributions=("box2d",),
    stateful_reset=r"BipedalWalker",
)
