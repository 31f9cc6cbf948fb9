"""State of `predict` in Stable-Baselines3's policy protocol, for agents here and agents of a server."""

from dataclasses import dataclass, field
from typing import Any

from gato_agent.envs.errors import GatoError, UsageError


@dataclass(frozen=True, eq=False)
class PredictState:
    """State that an agent's `predict` returns: a handle. The memory itself stays in the agent or its server.

    Attributes:
        agent: that returned it.
        num_envs: observations of the call.
    """

    agent: object = field(repr=False)
    num_envs: int


def claimed_num_envs(state: Any, agent: object, name: str, error: type[GatoError] = UsageError) -> int | None:
    """Number of observations that a state of this agent is for; None without a state.

    Args:
        state: as the caller of `predict` gave it.
        agent: whose `predict` is called.
        name: of its task, for the message.
        error: class of what is raised.

    Raises:
        GatoError: the state is not one that `predict` of this agent returned.
    """
    if state is None:
        return None
    if isinstance(state, PredictState) and state.agent is agent:
        return state.num_envs
    owner = f"{state.agent!r}" if isinstance(state, PredictState) else f"a {type(state).__name__}"
    way_out = "pass the state that its own `predict` returned, or None"
    raise error(f"{name}: the state is of {owner}, and not of this agent: {way_out}")
