"""Autoregressive action decoder: one hidden state becomes the tokens of an action, each chosen given those before it.

Action token j has the marginal state m_j = A_j h of the hidden state h, and the conditional state

    s_j = m_j + C_j gelu(S_j h + sum over i < j of T_i e(a_i))

with e an embedding of the chosen ids; s_0 is m_0. Scores are products with a table of its own. The marginal loss trains
the marginal states and through them the transformer; the conditional loss trains the rest, with h, m_j and the table
detached (`loss.action_loss`). So the transformer learns to predict every number of an action, not only those that
earlier numbers leave open. Heads that read the codes chosen before are from VQ-BeT (Lee et al. 2024).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gato_agent.model.config import GatoConfig
from gato_agent.model.init import smooth_bin_table
from gato_agent.tokens.space_tokenizer import BINS
from gato_agent.tokens.timestep_layout import ACTION_GROUP

STATE_WIDTH = 64  # of the state that scores an action token
CHOSEN_WIDTH = 32  # of the embedding of a chosen id


class Correction(nn.Module):
    """Matrices of the term that earlier action tokens add to the marginal state of a later one.

    Beyond `ACTION_GROUP` tokens they repeat; `carry` then transforms the sum of the group before.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.chosen = nn.Embedding(2 * BINS, CHOSEN_WIDTH)
        self.read, self.state, self.out = (
            nn.ModuleList(nn.Linear(inputs, outputs, bias=False) for _ in range(ACTION_GROUP))
            for inputs, outputs in ((CHOSEN_WIDTH, STATE_WIDTH), (width, STATE_WIDTH), (STATE_WIDTH, STATE_WIDTH))
        )
        self.carry = nn.Linear(STATE_WIDTH, STATE_WIDTH, bias=False)


class ActionDecoder(nn.Module):
    """Marginal and conditional states of the tokens of an action, and the table that scores their ids.

    Args:
        config: of the model.

    Attributes:
        first_id: id that the table's first row scores; text is never an action.
    """

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.first_id, self.end_id = config.vocabulary.continuous, config.vocabulary.separator
        self.marginal = nn.ModuleList(nn.Linear(config.width, STATE_WIDTH, bias=False) for _ in range(ACTION_GROUP))
        self.table = nn.Embedding(2 * BINS, STATE_WIDTH)
        self.correction = Correction(config.width)

    def begin(self, hidden: Tensor) -> "ActionChain":
        """An empty chain for states [batch, width]."""
        return ActionChain(hidden.new_zeros(len(hidden), STATE_WIDTH))

    def marginal_state(self, hidden: Tensor, at: int) -> Tensor:
        """State that scores action token `at` independently of those before it: [batch, width] -> [batch, 64]."""
        return self.marginal[at % ACTION_GROUP](hidden)  # type: ignore[no-any-return]

    def state(self, marginal: Tensor, hidden: Tensor, chain: "ActionChain", at: int) -> Tensor:
        """State that scores action token `at` given those in the chain: [batch, 64].

        Args:
            marginal: `marginal_state` of the token, [batch, 64].
            hidden: [batch, width], of the token of the stream that predicts it.
            chain: of the action tokens before it.
            at: index of the action token.
        """
        if at == 0:
            return marginal
        part, at = self.correction, at % ACTION_GROUP
        return marginal + part.out[at](F.gelu(part.state[at](hidden) + chain.read))  # type: ignore[no-any-return]

    def extend(self, chain: "ActionChain", ids: Tensor, at: int) -> "ActionChain":
        """The chain with action token `at`, whose ids are int64 [batch]."""
        part = self.correction
        read = chain.read + part.read[at % ACTION_GROUP](part.chosen(ids - self.first_id))
        return ActionChain(part.carry(read) if at % ACTION_GROUP == ACTION_GROUP - 1 else read)

    def rows(self, low: int, high: int | None) -> Tensor:
        """Rows of the table that score the ids [low, high), up to the last by default: [ids, 64]."""
        begin, end = max(low, self.first_id), self.end_id if high is None else high
        return self.table.weight[begin - self.first_id : end - self.first_id]

    def initialise(self) -> None:
        """Set initial tables and a correction of zero, after linear layers have their initial weights."""
        with torch.no_grad():
            scores, chosen = self.table.weight, self.correction.chosen.weight
            for table in (scores, chosen):
                table[:BINS] = smooth_bin_table(table.shape[1])
                table[BINS:].normal_()
            scores *= 0.03  # scores spread about as much as those of wider states over the common table
            for layer in self.correction.out:
                assert isinstance(layer, nn.Linear)
                layer.weight.zero_()

    def used(self, tokens: int) -> dict[nn.Module, bool]:
        """Modules of the decoder, each True if actions of `tokens` tokens use it."""
        part = self.correction
        used: dict[nn.Module, bool] = {layer: at < tokens for at, layer in enumerate(self.marginal)}
        for at in range(len(part.state)):
            conditional = 0 < at < tokens or (at == 0 and tokens > len(part.state))
            used |= {part.state[at]: conditional, part.out[at]: conditional, part.read[at]: at < tokens - 1}
        return {**used, part.chosen: tokens > 1, part.carry: tokens > len(part.state)}


class ActionChain(NamedTuple):
    """Sum over the action tokens chosen so far.

    Attributes:
        read: float [batch, 64], the sum of T_i e(a_i).
    """

    read: Tensor

    def first(self, count: int) -> "ActionChain":
        """The chain of the first rows of a batch."""
        return ActionChain(self.read[:count])


class Scores(NamedTuple):
    """Sizes of the last layer, from hidden states to scores of ids.

    Attributes:
        state_width: width of the states that score ids.
        split: weights that make such a state of a hidden state, for each action token.
        chain: weights that condition an action token on those before it.
    """

    state_width: int
    split: int
    chain: int

    @classmethod
    def of(cls, config: GatoConfig) -> "Scores":
        """Sizes of a model, with an action decoder or without."""
        if not config.action_decoder:
            return cls(config.width, 0, 0)
        split = config.width * STATE_WIDTH
        return cls(STATE_WIDTH, split, split + STATE_WIDTH**2 + CHOSEN_WIDTH * STATE_WIDTH)
