"""Modules can be imported under their names of version 0.1."""

import sys
from importlib import import_module

import pytest

from gato_agent.envs.io.former_modules import FORMER


@pytest.mark.parametrize("former", sorted(FORMER))
def test_a_former_name_gives_the_names_of_the_present_module(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, former, raising=False)
    present = import_module(FORMER[former])
    with pytest.warns(DeprecationWarning, match=f"{former} is called {FORMER[former]}"):
        module = import_module(former)
    public = [name for name in vars(present) if not name.startswith("_")]
    assert public and all(getattr(module, name) is getattr(present, name) for name in public)


def test_other_names_are_unknown_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"gato_agent\.rollouts\.shop"):
        import_module("gato_agent.rollouts.shop")
