"""Checks of the inputs of the CPU decoder, by which its C++ code indexes memory."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gato_agent.inference.decoders.decoder import Prefill
from gato_agent.tokens.space_tokenizer import BINS, PAD, PATCH, VALUES


class Limits(NamedTuple):
    """Sizes of a model that bound its inputs: ids of the vocabulary, local positions, values in a value group."""

    ids: int
    positions: int
    values_per_token: int


def check_prefill(prefill: Prefill, rows: int, longest: int, limits: Limits) -> None:
    """Raise ValueError for tokens, local positions, patches or value groups that do not fit.

    Args:
        prefill: to check.
        rows: environments of it.
        longest: most tokens of an environment.
        limits: of the model.
    """
    tokens, local, patches, _, value_groups = prefill
    # For so few values NumPy costs a tenth of PyTorch. It does not know all of PyTorch's dtypes.
    ids, places = (part.numpy() if part.dtype == torch.int64 else None for part in (tokens, local))
    if ids is None or not (ids.ndim == 2 and ids.shape[0] == rows and 0 < ids.shape[1] <= longest):
        raise ValueError(
            f"tokens {tokens.dtype} {list(tokens.shape)}, and reset prepared for int64 [{rows}, n] "
            f"with n at most {longest}"
        )
    if places is None or places.shape != ids.shape or places.max(initial=-1) >= limits.positions:
        raise ValueError(f"local positions {local.dtype} {list(local.shape)}: int64 below {limits.positions} are known")
    lowest = ids.min(initial=PAD)
    if lowest < VALUES or ids.max(initial=PAD) >= limits.ids:
        raise ValueError(f"token ids from {lowest} to {ids.max()}: the vocabulary has {limits.ids}")
    if lowest < PAD or patches is not None or value_groups is not None:
        _check_counts(ids, patches=(patches, PATCH), value_groups=(value_groups, VALUES))
    if value_groups is not None:
        _check_value_groups(value_groups, limits.values_per_token)


def _check_counts(ids: NDArray[np.int64], **parts: tuple[Tensor | None, int]) -> None:
    """Raise ValueError for patches or value groups that are more or fewer than their tokens; each with its token."""
    for name, (part, kind) in parts.items():
        count, places = 0 if part is None else len(part), np.count_nonzero(ids == kind)
        if count != places:
            raise ValueError(f"{count} {name} for {places} places among the tokens")


def _check_value_groups(value_groups: Tensor, values_per_token: int) -> None:
    """Raise ValueError for value groups that the model does not have, or values that are neither PAD nor bins."""
    shape, values = list(value_groups.shape[1:]), value_groups.numpy()
    fits = values_per_token > 1 and shape == [values_per_token]
    if not fits or (values.size and (values.min() < PAD or values.max() >= 2 * BINS)):
        raise ValueError(f"value groups of {shape} values: the model has {values_per_token}, PAD or below {2 * BINS}")


def check_option(option: Tensor | None, dtype: torch.dtype, rows: int, width: int) -> None:
    """Raise ValueError for an option of a step that is neither None nor of this type and shape [rows, width]."""
    if option is not None and (option.shape != (rows, width) or option.dtype != dtype):
        message = f"options of a step, {option.dtype} {list(option.shape)}"
        raise ValueError(f"{message}: {dtype} [{rows}, {width}] fits")
