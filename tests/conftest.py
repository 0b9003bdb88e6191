"""One thread, a cache of our own, what is made once for all tests, and no silent skips."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import no_skips
import pytest
import shapes  # noqa: F401 (before anything imports lineament, whose arrays it checks)
import torch

# isort: split
from command_line import arguments, lineament
from hypothesis import settings as hypothesis_settings
from jaxtyping import config as jaxtyping_config
from made_once import made_once, session_folder

# Draws are fixed and each example may take as long as it needs: the suite must give one answer on any machine.
hypothesis_settings.register_profile("lineament", deadline=None, max_examples=25, derandomize=True, database=None)
hypothesis_settings.load_profile("lineament")
SLOW_FIXTURES = {
    "finished",
    "finished_of_three",
    "study",
    "trained",
    "processes",
    "ray",
    "browser",
    "before_and_now",
    "extended",
}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(no_skips)
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for something that takes long to make is slow, too."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & SLOW_FIXTURES:
            item.add_marker("slow")
        if "browser" in fixtures:
            item.add_marker("browser")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Commands that ran in this process may have left another number, and last bits depend on it."""
    torch.set_num_threads(1)


@pytest.fixture
def own_shape_errors() -> Iterator[None]:
    """Shapes in signatures are not checked, as outside of tests: what the package itself says of a wrong one."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trained base models go to a folder of this session, which its workers share, never to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINEAMENT_CACHE", str(session_folder(tmp_path_factory) / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_reading_of_smollm2(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reading its file is most of what a test with SmolLM2 would do."""
    if not any(item.get_closest_marker("lm") for item in request.session.items):
        yield
        return
    from read_once import smollm2_read_once  # imports transformers, which tests without a language model do not need

    with smollm2_read_once():
        yield


@pytest.fixture(scope="session")
def finished(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small synthetic run with two seeds, made by the command line; tests only read it."""

    def make(out: Path) -> None:
        done = lineament(*arguments(out), "--seeds", "2", "--executor", "processes")
        assert done.returncode == 0, done.stderr
        assert str(out / "report.html") in done.stdout.replace("\n", "")
        assert "Traceback" not in done.stderr

    return made_once(tmp_path_factory, "undisturbed", make)


@pytest.fixture(scope="session")
def finished_of_three(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a third seed, so that there are intervals; tests only read it."""

    def make(out: Path) -> None:
        shutil.copytree(finished, out)
        done = lineament(*arguments(out), "--seeds", "3", "--resume")
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "undisturbed-3", make)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that a test may write to."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))
