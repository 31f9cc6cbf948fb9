"""Tab completion knows every verb, its options and their choices."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gato_agent.cli import VERBS, main

TRY = """
source {script}
complete_by=$(complete -p gato-agent | sed 's/.*-F \\([^ ]*\\).*/\\1/')
while IFS= read -r line; do
    read -ra COMP_WORDS <<< "$line"
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_LINE="$line" COMP_POINT=${{#line}} COMPREPLY=()
    $complete_by gato-agent "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
    echo "${{COMPREPLY[*]}}"
done
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "gato-agent.bash"
    command = [sys.executable, "-m", "gato_agent", "completion", "bash"]
    path.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return path


def completed(script: Path, *lines: str) -> list[set[str]]:
    """Words that Tab offers at the end of each line."""
    shell = ["bash", "--norc", "-c", TRY.format(script=shlex.quote(str(script)))]
    text = "".join(f"{line}\n" for line in lines)
    result = subprocess.run(shell, input=text, check=True, capture_output=True, text=True, timeout=120)
    assert result.stderr == ""
    return [set(line.split()) for line in result.stdout.splitlines()]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_verbs_options_and_choices_are_completed(script: Path) -> None:
    first, second, options, sizes, renders, subcommand = completed(
        script, "gato-agent ", "gato-agent info ", "gato-agent train --l", "gato-agent train --size ",
        "gato-agent play --env CartPole-v1 --render ", "gato-agent data filter --ab",
    )  # fmt: skip
    assert {verb.split()[0] for verb in VERBS} <= first
    assert {"tasks", "env", "size", "checkpoint"} <= second
    assert options == {"--learning-rate", "--logger", "--loss-over"}
    assert {"nano", "tiny"} <= sizes and renders == {"auto", "human", "video", "none"}
    assert subcommand == {"--above"}


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_each_verb_has_options(script: Path) -> None:
    verbs = [verb for verb in VERBS if verb not in ("data", "completion")]
    offered = completed(script, *(f"gato-agent {verb} --" for verb in verbs))
    known = {"info size": 0, "info checkpoint": 0, "info tasks": 2, "checkpoint upgrade": 1}
    for verb, words in zip(verbs, offered, strict=True):
        assert "--help" in words and len(words) > known.get(verb, 0), verb
    assert completed(
        script, *(f"gato-agent {verb.split()[0]} {verb.split()[-1]}" for verb in VERBS if " " in verb)
    ) == [{verb.split()[-1]} for verb in VERBS if " " in verb]


def test_zsh_has_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["completion", "zsh"])
    out = capsys.readouterr().out
    assert not stop.value.code and out.startswith("#compdef gato-agent") and "--learning-rate" in out


def test_other_shells_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for line, message in ((["completion"], "completion needs a value"), (["completion", "fish"], "one of bash, zsh")):
        with pytest.raises(SystemExit) as stop:
            main(line)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and message in error and error.count("\n") == 1
