"""Layout of one timestep in the token stream: places of observation, separator and action tokens.

    action decoder       observation [separators]                   positions 0, 1, ...   all tokens stay
    through transformer  observation | separator | action tokens    positions 0, 1, ...   the observation stays

With an action decoder one token's hidden state predicts up to `ACTION_GROUP` action tokens, which are not tokens of the
stream. Through the transformer each token from the separator on predicts the next. Separator and action tokens are then
keys within their own timestep only, and the next observation takes their positions, unless past actions stay visible.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ACTION_GROUP = 32  # action tokens that one hidden state predicts
ALWAYS = 2**30  # `until` of a token that every later one of its episode may attend to


@dataclass(frozen=True)
class TimestepLayout:
    """Order and positions of the tokens of a timestep, the same for all timesteps of a task.

    Attributes:
        n_obs: observation tokens.
        n_act: tokens of an action.
        action_decoder: True if an action decoder predicts the action from the timestep's last hidden states.
        past_actions: True if action tokens of the stream stay visible to later timesteps.
        value_groups: observation tokens, the last ones, that hold groups of values.
    """

    n_obs: int
    n_act: int
    action_decoder: bool
    past_actions: bool = False
    value_groups: int = 0

    @property
    def first(self) -> int:
        """Place of the token whose hidden state predicts the first action token."""
        return self.n_obs - (1 if self.action_decoder and self.value_groups else 0)

    @property
    def n_separators(self) -> int:
        """Number of separator tokens: 1, or with an action decoder as many as predict all action tokens."""
        return self.first - (-self.n_act // ACTION_GROUP) - self.n_obs if self.action_decoder else 1

    @property
    def n_prefill(self) -> int:
        """Tokens that are known before the first action token."""
        return self.n_obs + self.n_separators

    @property
    def length(self) -> int:
        """Tokens of a timestep in the stream."""
        return self.n_prefill + (0 if self.action_decoder else self.n_act)

    @property
    def hides_actions(self) -> bool:
        """True if separator and action tokens are keys within their own timestep only."""
        return not (self.action_decoder or self.past_actions)

    @property
    def span(self) -> int:
        """Positions from the beginning of a timestep to that of the next."""
        return self.n_obs if self.hides_actions else self.length

    @property
    def carried(self) -> int:
        """Action tokens that enter the stream with the next observation: the last one, if it stays visible."""
        return 0 if self.action_decoder or self.hides_actions else 1

    @property
    def rewound(self) -> int:
        """Tokens removed from the cache after each action: the separator and all action tokens but the last."""
        return self.n_act if self.hides_actions else 0

    @property
    def written(self) -> int:
        """Tokens that one step writes into the cache, those that are rewound among them."""
        return self.carried + self.n_prefill + (0 if self.action_decoder else self.n_act - 1)

    @property
    def passes(self) -> int:
        """Passes of the transformer in one step: one for each action token that it reads, at least one."""
        return 1 + self.written - self.carried - self.n_prefill

    def stream_actions(self, actions: NDArray[np.int32], labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Action tokens that the stream holds: the labels where only their own timestep reads them.

        Args:
            actions: tokens of the actions that were executed, [B, n_act].
            labels: tokens of the expert's actions, [B, n_act].
        """
        return labels if self.hides_actions else actions

    @cached_property
    def local(self) -> NDArray[np.int64]:
        """Local position of each token within the observation [length]; -1 where there is none."""
        if self.action_decoder:
            return np.arange(self.length)
        return np.concatenate((np.arange(self.n_obs), np.full(1 + self.n_act, -1)))

    @cached_property
    def until(self) -> NDArray[np.int64]:
        """Last place of the timestep whose token may attend to each token [length]; `ALWAYS`: all later ones may."""
        until = np.full(self.length, ALWAYS)
        if self.hides_actions:
            until[self.n_obs :] = self.length - 1
        return until

    def predictor(self, action_token: int) -> int:
        """Place of the token whose hidden state predicts an action token."""
        return self.first + (action_token // ACTION_GROUP if self.action_decoder else action_token)
