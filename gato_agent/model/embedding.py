"""Embedding of tokens, image patches, value groups and positions (Gato paper, sections 2.2 and C.2-C.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gato_agent.model.config import GatoConfig
from gato_agent.tokens.leaf_codecs import distinct
from gato_agent.tokens.space_tokenizer import BINS, PAD, PATCH, PATCH_SIZE, POSITIONS, VALUES

NORM_GROUPS = 32
CHANNELS = 4
KNOWN = 10_000  # patches whose vectors are cached in play, each about 1 kB of pixels and as much of vector
VALUE_WIDTH = 16  # of the vector of one value in a value group


class ResidualUnit(nn.Module):
    """ResNet-v2 unit that halves the resolution, with norm and GELU before each convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, out // 2, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, out // 2)
        self.conv2 = nn.Conv2d(out // 2, out, 3, stride=2, padding=1, bias=False)
        self.skip = nn.Conv2d(channels, out, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[k, channels, h, w] -> [k, out, h/2, w/2]."""
        x = F.gelu(self.norm1(x))
        # A 1x1 kernel's gradient may have strides that DDP takes for another layout; that of a view has the usual ones.
        kernel = self.skip.weight.flatten(1)[:, :, None, None]
        skipped = F.conv2d(x, kernel, stride=self.skip.stride)
        return skipped + self.conv2(F.gelu(self.norm2(self.conv1(x))))  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """Patch tower: a patch and its place in the image -> one vector."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        stem, *units = config.patch_channels
        self.stem = nn.Conv2d(CHANNELS, stem, 7, stride=2, padding=3, bias=False)
        self.units = nn.Sequential(*map(ResidualUnit, config.patch_channels, units))
        self.project = nn.Linear(units[-1], config.width, bias=False) if units[-1] != config.width else nn.Identity()
        self.row = nn.Embedding(POSITIONS, config.width)
        self.column = nn.Embedding(POSITIONS, config.width)

    def forward(self, patches: Tensor, intervals: Tensor, known: dict[bytes, Tensor] | None = None) -> Tensor:
        """Embed patches.

        Args:
            patches: uint8 [k, 16, 16, 4], channels last.
            intervals: integer [k, 2, 2], (row | column, from | to), in 128ths of the image.
            known: cache of vectors by pixels, which this call extends; None to embed all patches.

        Returns:
            [k, width]
        """
        rows, columns = self._positions(intervals).unbind(1)
        if known is not None:
            x = self._recall(patches, known)
        elif self.training and patches.device.type == "cpu":
            patches, place = map(torch.from_numpy, distinct(patches.numpy()))
            x = self._encode(patches)[place]
        else:
            x = self._encode(patches)
        return x + self.row(rows) + self.column(columns)  # type: ignore[no-any-return]

    def _recall(self, patches: Tensor, known: dict[bytes, Tensor]) -> Tensor:
        """`_encode` of each distinct patch alone, through the cache."""
        keys = [patch.tobytes() for patch in patches.numpy()]
        if len(known) > KNOWN:
            known.clear()
        for i, key in enumerate(keys):
            if key not in known:
                known[key] = self._encode(patches[i : i + 1])[0]
        return torch.stack([known[key] for key in keys])

    def _encode(self, patches: Tensor) -> Tensor:
        """[k, 16, 16, 4] -> [k, width], always in float32: bfloat16 is slower for so few channels."""
        with torch.autocast(patches.device.type, enabled=False):
            x = patches.permute(0, 3, 1, 2).to(self.stem.weight.dtype)
            x = (x / 127.5 - 1) / PATCH_SIZE**0.5  # pixels in [-1, 1], then over sqrt(16): paper, section 2.1
            return self.project(self.units(self.stem(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def _positions(self, intervals: Tensor) -> Tensor:
        """One position per interval: uniform within it in training, its rounded mean in evaluation. [k, 2]."""
        low, high = intervals.unbind(2)
        if self.training:
            position = low + (torch.rand(low.shape, device=low.device) * (high - low)).long()
        else:
            position = torch.round((low + high) / 2).long()
        return position.clamp(max=self.row.num_embeddings - 1)


class ValueGroupEmbedding(nn.Module):
    """A value group -> one vector: narrow embeddings of its values, concatenated, times one matrix."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.value = nn.Embedding(1 + 2 * BINS, VALUE_WIDTH, padding_idx=0)
        self.mix = nn.Linear(config.values_per_token * VALUE_WIDTH, config.width, bias=False)

    def forward(self, value_groups: Tensor) -> Tensor:
        """Integer [k, values_per_token], ids from the first bin on or PAD -> [k, width]."""
        return self.mix(self.value(value_groups.int() - PAD).flatten(1))  # type: ignore[no-any-return]


class Embedding(nn.Module):
    """Embedding of a token stream: ids by one table, patches, value groups, and local positions."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocabulary.size, config.width)
        self.local = nn.Embedding(config.local_positions, config.width)
        self.patch = PatchEmbedding(config)
        if config.values_per_token > 1:
            self.value_group = ValueGroupEmbedding(config)

    def forward(
        self, tokens: Tensor, local: Tensor | None, patches: Tensor | None, intervals: Tensor | None,
        value_groups: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Embed a stream of tokens.

        Args:
            tokens: integer [batch, length]; ids, PAD, PATCH or VALUES.
            local: integer [batch, length]; position within the observation, -1 for separator and actions; None for no
                observations at all.
            patches: uint8 [k, 16, 16, 4], one per PATCH in `tokens`, in row-major order; None if there are none.
            intervals: integer [k, 2, 2], the place of each patch in its image.
            value_groups: integer [p, values_per_token], one per VALUES, likewise.

        Returns:
            [batch, length, width]
        """
        x = self.table(tokens.clamp(min=0))
        # The tower runs on patches only, not on every token.
        if patches is not None and len(patches):
            assert intervals is not None
            x = x.masked_scatter((tokens == PATCH).unsqueeze(-1), self.patch(patches, intervals).to(x.dtype))
        if value_groups is not None and len(value_groups):
            x = x.masked_scatter((tokens == VALUES).unsqueeze(-1), self.value_group(value_groups).to(x.dtype))
        if local is not None:
            x = x + self.local(local.clamp(min=0)) * (local >= 0).unsqueeze(-1)
        return x  # type: ignore[no-any-return]
