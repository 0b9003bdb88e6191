"""SmolLM2 is read from its GGUF file once per process of the tests: transformers takes 12 s each time."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lineament.problems.loading import SMOLLM2, load_model
from lineament.settings.model import DtypeName

_read = functools.cache(load_model)


def read_smollm2(dtype: DtypeName = "float32") -> tuple[Any, Any]:
    """Return model and tokenizer as `load_model` does, as copies of what was read first: tests change weights."""
    return copy.deepcopy(_read(SMOLLM2, dtype))


@contextmanager
def smollm2_read_once() -> Iterator[None]:
    """Let every language-model problem of this process take such a copy when it asks for SmolLM2."""

    def load(name: str, dtype: DtypeName = "float32") -> tuple[Any, Any]:
        return read_smollm2(dtype) if name == SMOLLM2 else load_model(name, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lineament.problems.language_model.load_model", load)
        yield
