"""Verbs and options of the command line under their names of version 0.1, for one release."""

import sys
from collections.abc import Collection

from gato_agent.envs.errors import UsageError

RENAMED_OPTIONS = {
    ("bench step", "--lanes"): "--n-envs",
    ("collect", "--no-seal"): "--no-compact",
    ("collect", "--seal"): "--compact",
    ("data", "seal"): "compact",
    ("train", "--shortest-fragment"): "--min-segment",
    ("train", "--smooth-bins"): "--bin-label-smoothing",
    ("train", "--weights"): "--save-dtype",
}

INFO = ("--size", "--checkpoint", "--env")  # former options of `info`


def present_option(verb: str, argument: str) -> str:
    """Option under its present name, with a hint on stderr if the user wrote a former one."""
    flag, equals, value = argument.partition("=")
    new = RENAMED_OPTIONS.get((verb, flag.replace("_", "-")))
    if new is None:
        return argument
    sys.stderr.write(f"gato-agent: {flag} is called {new}; the former name is removed in the next release\n")
    return new + equals + value


def present_verb(arguments: list[str], verbs: Collection[str]) -> list[str]:
    """Command line with a former verb under its present name, and a hint on stderr.

    Raises:
        UsageError: `info` with several of its former options.
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith(INFO) else [word])]
    asked = [flag for flag in INFO if flag in words]
    if " ".join(arguments[:2]) in verbs:
        named = words[0] == "info" and asked == [f"--{words[1]}"]  # `info env --env ID` is `info env ID`
        return [word for word in words if word not in asked] if named else arguments
    if arguments[0] == "envs":
        new = ["info", "tasks", *arguments[1:]]
    elif arguments[0] == "bench" and arguments[1:] and arguments[1].startswith("--") and arguments[1] != "--help":
        new = ["bench", "step", *arguments[1:]]
    elif arguments[0] == "info" and asked:
        if len(asked) > 1:
            raise UsageError(f"info shows one thing at a time: gato-agent info {asked[0].removeprefix('--')} ...")
        words.remove(asked[0])
        new = ["info", asked[0].removeprefix("--"), *words[1:]]
    else:
        return arguments
    sys.stderr.write(f"gato-agent: write {' '.join(new[:2])}; the former spelling is removed in the next release\n")
    return new
