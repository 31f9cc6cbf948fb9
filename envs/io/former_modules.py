"""Modules under their names of version 0.1, for one release."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

FORMER = {  # full name in version 0.1 -> full name of this version
    "gato_agent.agent": "gato_agent.inference.agent",
    "gato_agent.checkpoint": "gato_agent.checkpoints.checkpoint",
    "gato_agent.config": "gato_agent.model.config",
    "gato_agent.data": "gato_agent.dataset.load",
    "gato_agent.spaces": "gato_agent.tokens.space_tokenizer",
    "gato_agent.text": "gato_agent.tokens.text_tokenizer",
    "gato_agent.envs.structure": "gato_agent.envs.spaces.flatten",
    "gato_agent.envs.task": "gato_agent.envs.tasks.task",
    "gato_agent.envs.views": "gato_agent.envs.spaces.views",
    "gato_agent.rollouts.collect": "gato_agent.rollouts.collection.collect",
    "gato_agent.rollouts.episode": "gato_agent.rollouts.storage.episode",
    "gato_agent.rollouts.minari": "gato_agent.rollouts.storage.minari.importing",
    "gato_agent.rollouts.sb3": "gato_agent.rollouts.experts.sb3.zip_model",
    "gato_agent.rollouts.store": "gato_agent.rollouts.storage.episode_store",
    "gato_agent.rollouts.verify": "gato_agent.rollouts.storage.verify",
}


class FormerModules:
    """Finder and loader of modules by their former names: a module with the names of the present one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of a former module, None for all others."""
        return ModuleSpec(name, self) if name in FORMER else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """None: Python makes the module object itself."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill a former module with the names of the present one."""
        present = FORMER[module.__name__]
        message = f"{module.__name__} is called {present}; the former name is removed in the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        names = vars(import_module(present))
        vars(module).update({name: value for name, value in names.items() if not name.startswith("__")})


def register() -> None:
    """Let former names be imported; those that exist come first."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
