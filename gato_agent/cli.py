"""Command line: verbs, whose modules (and with them torch or Stable-Baselines3) are imported only when used."""

import errno
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from gato_agent.commands.former_spellings import present_option, present_verb
from gato_agent.commands.next_steps import after_interrupt, next_command
from gato_agent.envs.errors import GatoError, UsageError, reason
from gato_agent.envs.io.streams import discard, has_reader, prepare_streams
from gato_agent.envs.suggested_commands import suggest


class Verb(NamedTuple):
    """Location of a verb: module, dataclass of options, function that takes it, and a summary for the help."""

    module: str
    arguments: str
    function: str
    summary: str


VERBS = {
    "collect": Verb("gato_agent.commands.collect", "CollectConfig", "collect", "record episodes of an expert"),
    "data": Verb(
        "gato_agent.rollouts.storage.data_command",
        "DataCommand",
        "data",
        "show, verify, compact, export, import episodes",
    ),
    "train": Verb(
        "gato_agent.commands.train", "TrainArguments", "train_command", "train an agent on recorded episodes"
    ),
    "improve": Verb(
        "gato_agent.improving.improve", "ImproveConfig", "improve", "improve an agent by the best of its own episodes"
    ),
    "evaluate": Verb(
        "gato_agent.commands.evaluate", "EvaluateConfig", "evaluate", "measure returns and normalised scores"
    ),
    "report": Verb(
        "gato_agent.commands.report", "ReportConfig", "report", "compare evaluations; a page with charts and videos"
    ),
    "play": Verb("gato_agent.commands.play", "PlayConfig", "play", "watch an agent"),
    "serve": Verb("gato_agent.commands.serve", "ServeConfig", "serve", "serve an agent to programs elsewhere"),
    "export": Verb("gato_agent.commands.export", "ExportConfig", "export", "write a control step as a graph (ONNX)"),
    "info tasks": Verb(
        "gato_agent.commands.catalogue", "EnvsConfig", "envs", "list the catalogue of tasks, experts and scores"
    ),
    "info env": Verb("gato_agent.commands.info", "EnvInfo", "info_env", "show spaces and tokens of an environment"),
    "info size": Verb("gato_agent.commands.info", "SizeInfo", "info_size", "show parameters of a model size"),
    "info checkpoint": Verb(
        "gato_agent.commands.info", "CheckpointInfo", "info_checkpoint", "show the tasks of a checkpoint"
    ),
    "checkpoint upgrade": Verb(
        "gato_agent.checkpoints.upgrade_command",
        "UpgradeConfig",
        "upgrade_command",
        "convert a checkpoint of an earlier version",
    ),
    "bench step": Verb(
        "gato_agent.commands.bench.step", "BenchConfig", "bench", "time control steps relative to the roofline"
    ),
    "bench train": Verb(
        "gato_agent.commands.bench.train",
        "TrainBenchConfig",
        "bench_train",
        "time training steps relative to the roofline",
    ),
    "completion": Verb(
        "gato_agent.completion", "CompletionConfig", "completion", "complete verbs and options by Tab in a shell"
    ),
}


def usage() -> str:
    """Overview that `gato-agent` without a verb prints."""
    verbs = "\n".join(f"    {name:<20}{verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: gato-agent VERB [options]\n\n"
        "Collect expert episodes, train a Gato on them, evaluate it and watch it play.\n\n"
        f"verbs:\n{verbs}\n\n"
        "options:\n"
        "    VERB --help   options of a verb\n"
        "    --version     version of gato-agent\n"
        "    --quiet       print errors only\n"
        "    --debug       show the traceback of an error\n\n"
        f"try:\n    {suggest('play shipped', env='CartPole-v1')}"
    )


def main(argv: list[str] | None = None) -> None:
    """Entry point; exits with 0, 1 (run-time error), 2 (usage error) or 130 (interrupted)."""
    prepare_streams()
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    quiet = "--quiet" in arguments
    arguments = [a for a in arguments if a != "--quiet"]
    guard(lambda: run(arguments, quiet=quiet), debug=debug)


def guard(run: Callable[[], int | None], name: str = "gato-agent", *, debug: bool = False) -> NoReturn:
    """Run a program and exit as `main` does; an error is printed in one line, or raised with `debug`."""
    try:
        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(130)
    except GatoError as error:
        if debug:
            raise
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        if isinstance(error, BrokenPipeError) and not has_reader(sys.stdout):
            discard(sys.stdout)
            sys.exit(1)
        print(f"{name}: error: {_os_error_message(error)}", file=sys.stderr)
        sys.exit(1)
    except SystemExit:
        raise
    except BaseException as error:
        if debug:
            raise
        message = " ".join(str(error).split()) or "no message"
        hint = " (--debug shows where)" if name == "gato-agent" else ""
        print(f"{name}: {type(error).__name__}: {message}{hint}", file=sys.stderr)
        sys.exit(1)


def _os_error_message(error: OSError) -> str:
    if error.errno == errno.ENOENT and not error.filename:
        return "the current folder no longer exists: change to another one"
    if error.errno == errno.EBADF and not error.filename:
        return (
            "an open file of this process was closed (Bad file descriptor): an environment or expert closes files that "
            "it does not own; play it in another process, with --workers 1"
        )
    return reason(error)


def parse(arguments: list[str]) -> tuple[Callable[[Any], Any], Any]:
    """Function of a verb and its options; prints a hint for each former spelling.

    Raises:
        UsageError: an option is given twice, or a former spelling that cannot be read.
        SystemExit: the options are not those of the verb, or --help.
    """
    from gato_agent.envs.io.console import loading
    from gato_agent.envs.io.grouped_options import parse_grouped

    words = 2 if " ".join(arguments[:2]) in VERBS else 1
    name = " ".join(arguments[:words])
    verb = VERBS[name]
    with loading():
        module = import_module(verb.module)
    options = [present_option(name, a) if i == 0 or a.startswith("--") else a for i, a in enumerate(arguments[words:])]
    _refuse_twice(name, options, getattr(module, verb.arguments))
    if hasattr(module, "expand_json"):
        options, hints = module.expand_json(options)
        for hint in hints:
            print(f"gato-agent: {hint}", file=sys.stderr)
    default = {"default": module.defaults(options)} if hasattr(module, "defaults") else {}  # some follow from others
    config = parse_grouped(getattr(module, verb.arguments), prog=f"gato-agent {name}", args=options, **default)
    for hint in config.former_spellings() if hasattr(config, "former_spellings") else ():
        print(f"gato-agent: {hint}; the former spelling is removed in the next release", file=sys.stderr)
    return getattr(module, verb.function), config


def _refuse_twice(verb: str, options: list[str], config: Any) -> None:
    """Raise UsageError for an option that is given twice."""
    from typing import get_origin

    from gato_agent.envs.io.grouped_options import flags

    flags_used = [option.partition("=")[0] for option in options if option.startswith("--")]
    several = {word for word, hint in flags(config) if get_origin(hint) is tuple}
    for flag in [flag for flag in flags_used if flags_used.count(flag) > 1]:
        if flag.replace("_", "-") in several:
            raise UsageError(f"{flag} is given twice; for several values write them after one {flag}")
        raise UsageError(f"{flag} is given twice, and {verb} takes one value of it")


def _summaries(arguments: list[str]) -> str:
    """Verbs of a group such as `info --help`; raises UsageError for words that are no verb."""
    group = [verb for verb in VERBS if verb.startswith(f"{arguments[0]} ")]
    if not group:
        raise _unknown_verb(arguments[0], [*VERBS, "info", "bench", "help"])
    if not arguments[1:]:
        raise UsageError(f"{arguments[0]} what? choose one of: {', '.join(group)}")
    if arguments[1] not in ("-h", "--help"):
        raise _unknown_verb(" ".join(arguments[:2]), group)
    return "\n".join(f"{verb:<20}{VERBS[verb].summary}" for verb in group)


def _unknown_verb(words: str, verbs: Iterable[str]) -> UsageError:
    """Error for a verb that there is not, with the one that resembles it or all of them."""
    from difflib import get_close_matches

    close = get_close_matches(words, verbs, n=1)
    way = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(VERBS)}"
    return UsageError(f"no verb {words!r}: {way}")


def run(arguments: list[str], *, quiet: bool = False) -> int:
    """Run one verb, quietly or with its messages; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from gato_agent import __version__

        print(__version__)
        return 0
    arguments = present_verb(arguments, VERBS)
    if arguments[0] not in VERBS and " ".join(arguments[:2]) not in VERBS:
        print(_summaries(arguments))
        return 0
    from gato_agent.envs.io.console import plain_console, set_quiet
    from gato_agent.envs.io.json_output import messages_on_stderr

    set_quiet(quiet)
    function, config = parse(arguments)
    try:
        with messages_on_stderr(getattr(config, "json", None)):
            function(config)
            if command := next_command(arguments[0], config):
                plain_console(soft_wrap=True).print(f"next: {command}", highlight=False)
    except KeyboardInterrupt:
        print(f"gato-agent: interrupted; {after_interrupt(arguments[0], config)}", file=sys.stderr)
        raise
    except SystemExit as error:  # it would end the command silently, with any exit code
        raise GatoError(f"an environment, an expert or a package called sys.exit({error.code!r})") from error
    return 0
