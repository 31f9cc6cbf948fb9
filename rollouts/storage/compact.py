"""Compaction of a task's episodes into few large files; the partition is a function of the episodes alone."""

from collections.abc import Iterator

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.storage.episode_store import EpisodeStore, is_pending
from gato_agent.rollouts.storage.shard import Shard, joined

SHARD_BYTES = 2**27  # of episodes in memory; compaction takes about four times as much memory


def compact(store: EpisodeStore) -> None:
    """Join all episodes of a store into shards; shards that are already as planned are not rewritten.

    A file is deleted only after its replacement is on disk and verified, so compaction can be killed at any time and
    repeated. New episodes with higher seeds change only the last shard.

    Raises:
        GatoError: an episode is damaged.
    """
    sizes = {seed: size for shard in store.shards() for seed, size in zip(shard.seeds, shard.sizes, strict=True)}
    compacted = {tuple(shard.seeds) for shard in store.shards() if not is_pending(shard.path)}
    planned = list(plan(sizes))
    for seeds in planned:
        if tuple(seeds) not in compacted:
            _write(store, seeds)
    for shard in store.shards():
        if is_pending(shard.path) or shard.seeds not in planned:
            shard.path.unlink()
    store.shards()


def plan(sizes: dict[int, int], most: int | None = None) -> Iterator[list[int]]:
    """Partition seeds, in ascending order, into files of at most `most` bytes, or of one larger episode.

    Args:
        sizes: seed -> bytes of the episode.
        most: bytes of a file; by default SHARD_BYTES.
    """
    most = most or SHARD_BYTES
    seeds: list[int] = []
    filled = 0
    for seed, size in sorted(sizes.items()):
        if seeds and filled + size > most:
            yield seeds
            seeds, filled = [], 0
        seeds.append(seed)
        filled += size
    if seeds:
        yield seeds


def _write(store: EpisodeStore, seeds: list[int]) -> None:
    path = store.folder / f"{seeds[0]:08d}-{seeds[-1]:08d}.shard.safetensors"
    episodes = [store.encoded(seed) for seed in seeds]
    joined_bytes = joined(episodes)
    shard = Shard(path, joined_bytes)
    for each in episodes:
        read = shard.encoded(each.seed)  # verifies the checksum of the joined arrays
        if (read.about, read.size, read.kinds) != (each.about, each.size, each.kinds):
            raise GatoError(f"{path}: episode {each.seed} would not read back as written: it stays uncompacted")
    store.write({path: joined_bytes})
