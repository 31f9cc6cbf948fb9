"""Pack a task's episodes into few large files. Which episode is in which is a function of the episodes alone."""

from collections.abc import Iterable, Iterator

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.storage.episode_store import EpisodeStore, is_group
from gato_agent.rollouts.storage.shard import Shard, joined

SHARD_BYTES = 2**27  # of episodes as they are in memory; packing needs about four times as much


def compact(store: EpisodeStore) -> None:
    """Pack all episodes that are there; those compacted before stay where they are, as far as the plan is the same.

    Nothing is deleted before what replaces it is on disk, and nothing is written that does not read back as it was.
    So it may be killed at any moment; the next time finishes it. More episodes with higher seeds change only the last
    file.

    Raises:
        GatoError: an episode is damaged.
    """
    sizes, single = dict(_sizes(store)), set(store.single())
    with_digest = {tuple(shard.seeds) for shard in store.shards() if not is_group(shard.path)}
    planned = list(plan(sizes))
    for seeds in planned:
        if tuple(seeds) not in with_digest:
            _write(store, seeds)
        for seed in seeds:
            if seed in single:
                store.path(seed).unlink()
    for shard in store.shards():
        if is_group(shard.path) or shard.seeds not in planned:
            shard.path.unlink()
    store.shards()


def plan(sizes: dict[int, int], most: int | None = None) -> Iterator[list[int]]:
    """Fill one file after the other in the order of seeds, with at most `most` bytes each, or with one episode."""
    most = most or SHARD_BYTES
    group: list[int] = []
    filled = 0
    for seed, size in sorted(sizes.items()):
        if group and filled + size > most:
            yield group
            group, filled = [], 0
        group.append(seed)
        filled += size
    if group:
        yield group


def _sizes(store: EpisodeStore) -> Iterable[tuple[int, int]]:
    for seed in store.single():
        yield seed, store.encoded(seed).size
    for shard in store.shards():
        yield from zip(shard.seeds, shard.sizes, strict=True)


def _write(store: EpisodeStore, seeds: list[int]) -> None:
    path = store.folder / f"{seeds[0]:08d}-{seeds[-1]:08d}.shard.safetensors"
    episodes = [store.encoded(seed) for seed in seeds]
    joined_bytes = joined(episodes)
    shard = Shard(path, joined_bytes)
    for each in episodes:
        read = shard.encoded(each.seed)  # tries the checksum of the arrays that were packed
        if (read.about, read.size, read.kinds) != (each.about, each.size, each.kinds):
            raise GatoError(f"{path}: episode {each.seed} would be read as another: it stays unsealed")
    store.write({path: joined_bytes})
