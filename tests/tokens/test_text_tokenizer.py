"""Any string comes back exactly, whatever the tokenizer was trained on."""

import io
import os
import subprocess
import sys

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from gato_agent.envs.errors import GatoError, SpaceError, UsageError
from gato_agent.tokens.text_tokenizer import TextTokenizer
from tests.helpers.paths import ROOT

MISSIONS = ["go to the red ball", "go to the blue key", "pick up a red key", "open the door on your left"]
MANY = "".join(chr(0x4E00 + i) for i in range(3000))  # more characters than a small model has pieces
ODD = [
    "", " ", "  ", " a", "a ", "\u2581", "\u2581\u2581 \u2581", "a\u2581b c", "\n", "\r\n", "\t", "\0", "a\0b", "<unk>",
    "<0x41>", "</s>", "\u2047", " \u2047 ", "\ufeff", "\ufffd", "\ufb01", "\u212b", "e\u0301", "\u200b\u200d", "\u3000",
    "\U0001f469\u200d\U0001f680", "\U0010ffff", "\u0085\u2028\u2029", "GO  to", "x" * 10_000, MANY,
]  # fmt: skip


@pytest.fixture(scope="module")
def missions() -> TextTokenizer:
    return TextTokenizer.train(MISSIONS, 512)


@pytest.fixture(scope="module", params=["missions", "one letter", "nothing", "chinese", "blocks", "lines"])
def tokenizer(request) -> TextTokenizer:
    corpora = {
        "missions": MISSIONS, "one letter": ["a"], "nothing": [], "chinese": [MANY * 2], "blocks": ["\u2581x\u2581"],
        "lines": ["a\nb\0c", "\ud800"],
    }  # fmt: skip
    return TextTokenizer.train(corpora[request.param], 300)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_strings_come_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.size <= 300 for i in ids)
    assert len(ids) <= len(text.encode())  # the room that SpaceTokenizer keeps for a Text space


@settings(max_examples=2000, deadline=None)
@given(st.text())
def test_any_string_comes_back(missions, text):
    assert missions.decode(missions.encode(text)) == text


def test_training_finds_the_words(missions):
    assert missions.size <= 512
    assert len(missions.encode("go to the red ball")) == 5
    assert len(missions.encode("the red key")) < len(MISSIONS[0].split()) + 1


def test_same_texts_give_the_same_bytes(missions):
    again = TextTokenizer.train(iter(MISSIONS * 3), 512)
    assert again.model == missions.model
    assert TextTokenizer.train([*MISSIONS, "some other words"], 512).model != missions.model


def test_processes_agree():
    """The order of a set of strings differs from process to process; the bytes of a model must not."""
    code = (
        "import hashlib; from gato_agent.tokens.text_tokenizer import TextTokenizer\n"
        "texts = [chr(0x4E00 + i) for i in range(300)]  # more than have a piece, and all as frequent\n"
        "print(hashlib.sha256(TextTokenizer.train(texts, 300).model).hexdigest())"
    )
    root = ROOT
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            check=True, capture_output=True,
        ).stdout
        for seed in "12"
    ]  # fmt: skip
    assert len(runs[0]) > 60 and runs[0] == runs[1]


def test_long_texts_are_learned_from():
    tokenizer = TextTokenizer.train(["the quick brown fox " * 2000], 400)
    assert len(tokenizer.encode("quick brown fox")) <= 4


def test_a_model_survives_bytes_and_files(missions, tmp_path):
    path = tmp_path / "m.model"
    path.write_bytes(missions.model)
    for copy in (TextTokenizer(missions.model), TextTokenizer.from_file(path)):
        assert copy.model == missions.model
        assert copy.size == missions.size
        assert copy.encode("go to \u2581 a ball") == missions.encode("go to \u2581 a ball")


def test_a_users_lossy_model_is_used_as_it_is():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(MISSIONS), model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=3
    )
    tokenizer = TextTokenizer(model.getvalue())
    assert tokenizer.decode(tokenizer.encode("go to the red ball")) == "go to the red ball"
    for text in ODD:
        assert isinstance(tokenizer.decode(tokenizer.encode(text)), str)


def test_half_a_surrogate_pair_is_refused(missions):
    with pytest.raises(SpaceError, match=r"'a\\ud800' is not valid Unicode: .* at 1"):
        missions.encode("a\ud800")


@pytest.mark.parametrize("model", [b"", b"garbage", b"\0" * 100])
def test_what_is_no_model_is_refused(model, tmp_path):
    with pytest.raises(GatoError, match="not a SentencePiece model"):
        TextTokenizer(model)
    (tmp_path / "bad.model").write_bytes(model)
    with pytest.raises(GatoError, match=r"bad\.model: not a SentencePiece model"):
        TextTokenizer.from_file(tmp_path / "bad.model")


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"none\.model: No such file"):
        TextTokenizer.from_file(tmp_path / "none.model")


def test_too_few_pieces_are_refused():
    with pytest.raises(UsageError, match="100 pieces cannot spell every string: use 260 or more"):
        TextTokenizer.train(MISSIONS, 100)
    assert TextTokenizer.train(MISSIONS, 260).size <= 260


def test_nothing_is_printed(capfd):
    tokenizer = TextTokenizer.train(MISSIONS, 512)
    tokenizer.decode(tokenizer.encode("a\0\u2581"))
    for model in (b"", b"garbage"):
        with pytest.raises(GatoError):
            TextTokenizer(model)
    assert capfd.readouterr() == ("", "")
