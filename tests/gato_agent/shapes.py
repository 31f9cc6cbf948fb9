"""Shapes of models that several tests are about."""

import dataclasses

from gato_agent.config import GatoConfig

# A token for each value, and actions that are read one by one, as in the paper.
NANO = dataclasses.replace(GatoConfig.nano(), pack=1, parallel_actions=0)
