"""Gymnasium-Robotics: hands, arms, mazes and a kitchen, `FetchReach-v4` and so on."""

from gato_agent.envs.tasks.packages import Suite

SUITE = Suite(
    ids=r"(AdroitHand|AntMaze|Fetch|FrankaKitchen|HandManipulate|HandReach|PointMaze)",
    extra="robotics",
    packages=("gymnasium_robotics",),
    distributions=("gymnasium_robotics", "mujoco"),
    module="gymnasium_robotics",
)
