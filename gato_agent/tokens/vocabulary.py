"""Vocabulary: ranges of token ids, and the tokens that have no id."""

from typing import NamedTuple

from gato_agent.tokens.mu_law import BINS

PAD, PATCH, VALUES = -1, -2, -3  # tokens without an id: padding, an image patch, a value group


class Vocabulary(NamedTuple):
    """Ranges of ids: text pieces, bins, discrete values, separator.

    Attributes:
        text: number of text pieces, which have the first ids.
    """

    text: int

    @property
    def continuous(self) -> int:
        """First id of the bins."""
        return self.text

    @property
    def discrete(self) -> int:
        """First id of the discrete values."""
        return self.text + BINS

    @property
    def separator(self) -> int:
        """Id between observation and action."""
        return self.text + 2 * BINS

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.text + 2 * BINS + 1

    def ordered(self, first: int) -> bool:
        """True if ids from `first` on are bins, whose order is that of their values."""
        return self.continuous <= first < self.discrete
