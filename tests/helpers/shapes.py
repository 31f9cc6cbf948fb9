"""Model configurations of several tests."""

import dataclasses
from typing import Any

from gato_agent.model.config import GatoConfig

# Actions through the transformer, a token for each value, as in the paper; past actions are hidden.
NANO = dataclasses.replace(GatoConfig.nano(), values_per_token=1, action_decoder=False)

# Fields of the three layouts of a timestep, and of the action decoder's two predictors: separator and group of values.
LAYOUTS: dict[str, dict[str, Any]] = {
    "decoder": {"action_decoder": True, "values_per_token": 8},
    "separator": {"action_decoder": True},
    "hidden": {},
    "visible": {"past_actions": True},
}
