"""Tokenizer of any Gymnasium space: observations and actions <-> tokens (Gato paper, section 2.1 and appendix B).

    vocabulary     text pieces | 1,024 continuous bins | 1,024 discrete values | separator
    one timestep   text leaves, image leaves, then all other leaves, each by path | separator | action leaves by path
    grouped        those other leaves have no tokens of their own: up to `values_per_token` values share one; each row
                   of a grid, which is a two-dimensional MultiDiscrete, begins a token, the other values follow the last

`TimestepLayout` has their places in a timestep.

For example, as actions and with 512 text pieces:

    Box(-1, 1, (2,))       [0.5, -1.0]  ->  ids 512 + 768, 512 + 0   ->  the middles of these bins
    Discrete(3, start=1)   2            ->  id 512 + 1024 + 1        ->  2

Discrete values beyond 1,024 are split into digits, see `envs/spaces/digits.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Columns
from gato_agent.envs.spaces.views import View
from gato_agent.tokens.action_tokens import ActionTokens
from gato_agent.tokens.image_layout import PATCH_SIZE
from gato_agent.tokens.leaf_codecs import POSITIONS
from gato_agent.tokens.mu_law import BINS
from gato_agent.tokens.observation_tokens import ObservationParts, ObservationTokens, Observed
from gato_agent.tokens.timestep_layout import TimestepLayout
from gato_agent.tokens.vocabulary import PAD, PATCH, VALUES, Vocabulary

__all__ = ["BINS", "PAD", "PATCH", "PATCH_SIZE", "POSITIONS", "VALUES", "Observed", "SpaceTokenizer", "Vocabulary"]


class SpaceTokenizer:
    """Tokenizer of one observation space and one action space.

    Args:
        observation_space: any nesting of Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple.
        action_space: likewise.
        vocabulary: ranges of ids.
        text: string -> piece ids; without it, an observation with text cannot be encoded.
        text_pieces: tokens of an observed text, which is padded to that length.
        view: parts of the observation to encode; None for all.
        values_per_token: values of an observation that share one token; 1 for a token each.
        action_decoder: True if an action decoder predicts the action, which is then not in the stream.
        past_actions: True if actions in the stream stay visible to later timesteps.
        grid_rows: True if each row of a grid begins a token, where values share tokens.

    Attributes:
        values_per_token: as given.
        n_obs: tokens of an observation.
        n_value_groups: number of them that are value groups.
        widest: largest number of values in a value group.
        layout: places of tokens in a timestep.
        n_act: tokens of an action.
        patch_slots: int64 [k], positions of image patches within the observation.
        patch_intervals: int32 [k, 2, 2], (row | column, from | to) in 128ths of the padded image.
        legal: int32 [n_act, 2], half-open range of ids for each action token.
        acted: leaves of the action space, each with the places of its tokens in an action.
        acted_digits: those whose values are decoded as digits, by path.

    Raises:
        SpaceError: a space that has no tokens; the message has a way out.
    """

    def __init__(
        self, observation_space: Space[Any], action_space: Space[Any], vocabulary: Vocabulary,
        text: Callable[[str], Sequence[int]] | None = None, text_pieces: int = 32, view: View | None = None,
        values_per_token: int = 1, action_decoder: bool = False, grid_rows: bool = True, past_actions: bool = False,
    ) -> None:  # fmt: skip
        observations = ObservationTokens(
            observation_space, vocabulary, text, text_pieces, view, values_per_token, grid_rows
        )
        actions = ActionTokens(action_space, vocabulary)
        self._separator, self._observations, self._actions = vocabulary.separator, observations, actions
        self.values_per_token, self.widest = values_per_token, observations.widest
        self.n_obs, self.n_value_groups = observations.count, observations.n_value_groups
        self.patch_slots, self.patch_intervals = observations.patch_slots, observations.patch_intervals
        self.n_act, self.legal, self.acted = actions.count, actions.legal, actions.leaves
        self.acted_digits = actions.digits
        self.layout = TimestepLayout(self.n_obs, self.n_act, action_decoder, past_actions, self.n_value_groups)

    @property
    def parts(self) -> ObservationParts:
        """Leaves of an observation with the places of their tokens."""
        return self._observations.parts

    def timesteps(self, observed: NDArray[np.int32], acted: NDArray[np.int32]) -> NDArray[np.int32]:
        """Tokens of observations [B, n_obs] and actions [B, n_act] -> of timesteps [B, layout.length]."""
        separators = np.full((len(observed), self.layout.n_separators), self._separator, np.int32)
        return np.concatenate((observed, separators, acted), axis=1)[:, : self.layout.length]

    def encode_observations(self, columns: Columns) -> Observed:
        """Encode B observations.

        Args:
            columns: leaf path -> array [B, ...].

        Raises:
            SpaceError: a value that the space cannot have; names the leaf, the element and the row.
        """
        return self._observations.encode(columns)

    def encode_actions(self, columns: Columns) -> NDArray[np.int32]:
        """Encode B actions as tokens int32 [B, n_act], all legal; finite numbers beyond their bounds are clipped.

        Raises:
            SpaceError: as `encode_observations`.
        """
        return self._actions.encode(columns)

    def decode_actions(self, tokens: NDArray[np.integer[Any]]) -> Columns:
        """Decode tokens [B, n_act] into actions that the space contains.

        Raises:
            SpaceError: a token outside its legal range.
        """
        return self._actions.decode(tokens)
