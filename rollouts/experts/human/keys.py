"""Mapping of held keys to actions, from `--keys`, the environment, or the defaults."""

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from gato_agent.envs.errors import SpaceError, UsageError, one_line
from gato_agent.envs.make import parse_kwargs
from gato_agent.envs.spaces.values import validator
from gato_agent.rollouts.experts.human.known_keys import candidates, neutral

Combination = frozenset[str]  # names of keys that are held together
KEEP, UNDO, AGAIN, PAUSE, QUIT = "return", "backspace", "delete", "f1", "escape"
CONTROLS = (KEEP, UNDO, AGAIN, PAUSE, QUIT)
ARROWS = {"left": "a", "right": "d", "up": "w", "down": "s"}
SDL1 = {273: "up", 274: "down", 275: "right", 276: "left"}  # codes of the arrows in some environments' tables
PAD = "button "  # prefix of the names of a gamepad's buttons
HELD = 0.5  # deflection of a stick from which it counts as a held key
EXAMPLE = """--keys '{"": 0, "left": 1, "space": 2, "left+space": 3}'"""


class KeyMap:
    """Actions by combinations of held keys.

    Attributes:
        rest: action while no key is held; None if the environment waits for a key.
        names: names of the keys in use.
    """

    def __init__(self, space: Space[Any], actions: Mapping[Combination, Any]) -> None:
        """Map combinations to valid actions of a space; the empty combination has the action without a key."""
        self._space, self._actions = space, dict(actions)
        self.rest = self._actions.pop(frozenset(), None)
        if self.rest is None and isinstance(space, Box):
            self.rest = neutral(space)
        self.names = list(dict.fromkeys(name for keys in self._actions for name in keys))
        letters = {letter: arrow for arrow, letter in ARROWS.items()}
        self._aliases = next((other for other in (ARROWS, letters) if not other.keys() & set(self.names)), {})

    def name(self, key: str) -> str:
        """Name under which a key is mapped: arrows stand for w, a, s, d, and these for arrows."""
        return self._aliases.get(key, key)

    def action(self, held: Mapping[str, float]) -> Any:
        """Action of the held keys, or `rest`; in a Box the keys' deviations from it are added.

        Args:
            held: deflection of each held key, above 0 to 1, in the order in which they were pressed.
        """
        deflection = {self.name(key): strength for key, strength in held.items()}
        if isinstance(self._space, Box):
            return self._sum(deflection, self._space)
        combination = next(self._combinations(key for key, strength in deflection.items() if strength > HELD), None)
        return self.rest if combination is None else self._actions[combination]

    def _combinations(self, keys: Iterable[str]) -> Any:
        """Mapped combinations without a common key, the largest first, and the latest of equal ones."""
        order = {key: i for i, key in enumerate(keys)}
        free = set(order)
        fitting = [each for each in self._actions if each <= free]
        for each in sorted(fitting, key=lambda each: (len(each), max(map(order.__getitem__, each))), reverse=True):
            if each <= free:
                free -= each
                yield each

    def _sum(self, deflection: Mapping[str, float], space: Box) -> Any:
        rest = np.asarray(self.rest, np.float64)
        total = rest.copy()
        for keys in self._combinations(deflection):
            total += min(deflection[key] for key in keys) * (np.asarray(self._actions[keys], np.float64) - rest)
        total = total if np.issubdtype(space.dtype, np.floating) else np.round(total)
        return np.clip(total, space.low, space.high).astype(space.dtype)


def find_keys(env: gym.Env[Any, Any], env_id: str, text: str | None) -> KeyMap:
    """Keys of an environment: those of `--keys`, else its own `get_keys_to_action`, else the defaults.

    Raises:
        UsageError: `--keys` is broken, or there are no keys for the action space.
    """
    space = env.action_space
    if text is not None:
        return KeyMap(space, _parsed(parse_kwargs(text, "--keys"), space))
    if own := _own(env, space):
        return KeyMap(space, own)
    for table in candidates(env_id, space):
        try:
            return KeyMap(space, _parsed(table, space))
        except UsageError:
            continue  # a table for another variant of the environment
    raise UsageError(
        f"{env_id}: there are no default keys for its actions, {space!s:.200}: name those of each combination of keys, "
        f"such as {EXAMPLE} for Discrete(4)"
    )


def _parsed(table: Mapping[str, Any], space: Space[Any]) -> dict[Combination, Any]:
    """Valid actions by combination; raises UsageError for an unknown key, or an action that is not in the space."""
    actions, valid = {}, validator(space, acted=True)
    for text, value in table.items():
        keys = _combination(text)
        if taken := sorted(keys & set(CONTROLS)):
            raise UsageError(f"--keys {text!r}: {taken[0]} controls the collection: use another key")
        try:
            actions[keys] = valid(_without_lists(space, value))
        except (SpaceError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"--keys {text!r}: {value!r:.80} is not in {space!s:.200}: {error}") from error
    if not any(actions):
        raise UsageError(f"--keys names no key: write {EXAMPLE}")
    return actions


def _without_lists(space: Space[Any], value: Any) -> Any:
    """JSON value with tuples for the lists of Tuple spaces; raises TypeError or ValueError if it differs."""
    if isinstance(space, gym.spaces.Dict):
        if set(value) != set(space.spaces):
            raise ValueError(f"its keys are {', '.join(space.spaces)}")
        return {key: _without_lists(part, value[key]) for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_without_lists(part, item) for part, item in zip(space.spaces, value, strict=True))
    if isinstance(space, gym.spaces.Text) != isinstance(value, str) or isinstance(value, bool | dict | None):
        raise TypeError(f"it is a {type(value).__name__}")
    return value


def _combination(text: str) -> Combination:
    """Keys of a text: a name, names joined by `+`, or characters without a separator, as in Gymnasium's `play`."""
    names = [text] if _is_key(text) else text.split("+")
    if len(names) == 1 and text and not _is_key(text):
        names = list(text)
    names = ["space" if name == " " else name.lower() for name in names if name]
    if unknown := [name for name in names if not _is_key(name)]:
        raise UsageError(f"--keys {text!r}: there is no key {unknown[0]!r}: keys are named a, 1, left, space, f2 ...")
    return frozenset(names)


def _is_key(name: str) -> bool:
    """True if pygame or a gamepad has a key of that name."""
    import pygame

    if name.startswith(PAD):
        return name.removeprefix(PAD).isdigit()
    try:
        return bool(name) and bool(pygame.key.key_code(name))
    except (ValueError, pygame.error):
        return name == " "


def _own(env: gym.Env[Any, Any], space: Space[Any]) -> dict[Combination, Any]:
    """Actions of the environment's `get_keys_to_action`; empty without the method, or without a key that exists.

    As in Gymnasium's `play`, action 0 is taken while no key is held.
    """
    if not env.has_wrapper_attr("get_keys_to_action"):
        return {}
    actions, valid = {}, validator(space, acted=True)
    try:
        table: Any = env.get_wrapper_attr("get_keys_to_action")()
    except AttributeError:  # continuous Atari has the method, and it raises
        return {}
    except Exception as error:
        raise _broken(error) from error
    try:
        for keys, action in dict(table).items():
            names = [_key_name(key) for key in (keys if isinstance(keys, tuple | str) else (keys,))]
            if all(names):
                actions[frozenset(names)] = valid(action)
    except Exception as error:
        raise _broken(error) from error
    if isinstance(space, Discrete) and space.contains(0):
        actions.setdefault(frozenset(), valid(0))
    return actions if any(actions) else {}


def _broken(error: Exception) -> UsageError:
    return UsageError(f"the environment's get_keys_to_action is broken ({one_line(error)}): give --keys")


def _key_name(key: str | int) -> str:
    """Name of a key given as a character, a name, or a code; empty if there is none."""
    import pygame

    if isinstance(key, str):
        return "space" if key == " " else key.lower() if _is_key(key) else ""
    return SDL1.get(int(key)) or pygame.key.name(int(key))
