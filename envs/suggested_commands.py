"""Commands that messages suggest; a test parses each of them."""

import shlex

COMMANDS = {
    "collect": "gato-agent collect --env {env}",
    "collect by training": "gato-agent collect --env {env} --expert train",
    "collect into": "gato-agent collect --env {env} --out {out}",
    "collect a demonstration": "gato-agent collect --env {env} --episodes 1 --out {out}",
    "filter": "gato-agent data filter {folder}",
    "train": "gato-agent train --data {data} --out {out}",
    "fine-tune": "gato-agent train --init {init} --out {out}",
    "play": "gato-agent play --env {env} --checkpoint {checkpoint}",
    "play shipped": "gato-agent play --env {env}",
    "evaluate": "gato-agent evaluate --out {out}",
    "evaluate into": "gato-agent evaluate --env {env} --out {out}",
    "evaluate checkpoint": "gato-agent evaluate --checkpoint {checkpoint} --out {out}",
    "evaluate task": "gato-agent evaluate --env {env} --checkpoint {checkpoint} --out {out}",
    "report": "gato-agent report {results} --out {out}",
    "tasks": "gato-agent info tasks",
    "tasks of a checkpoint": "gato-agent info checkpoint {checkpoint}",
}


def suggest(name: str, **values: object) -> str:
    """A command with its values, quoted for a shell.

    Args:
        name: key of `COMMANDS`.
        values: of its placeholders.
    """
    return COMMANDS[name].format(**{key: shlex.quote(str(value)) for key, value in values.items()})
