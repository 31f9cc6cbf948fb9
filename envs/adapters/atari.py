"""Atari games, `ALE/Pong-v5` and so on."""

from gato_agent.envs.tasks.packages import Suite

SUITE = Suite(ids=r"ALE/", extra="atari", packages=("ale_py",), distributions=("ale_py",), module="ale_py")
