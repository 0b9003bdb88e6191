"""How large an installation is: the files of all packages that a requirement of pyproject.toml brings, without torch's.

    python benchmarks/install_size.py

Sizes are those of the environment that runs this, summed over the requirements' closure. Torch is left out of both
numbers, since its size depends on the build (CPU or CUDA) and on nothing here.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[A-Za-z0-9._-]+")
# Its own closure (sympy, networkx and so on) comes with it in any case.
LEFT_OUT = "torch"


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the names of all installed packages that these requirements bring, extras of others left out."""
    found: set[str] = set()
    todo = [name_of(text) for text in requirements]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            brought = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        todo += [name_of(text) for text in brought if "extra ==" not in text]
    return found


def name_of(requirement: str) -> str:
    """Return a requirement's package, as package indexes spell it."""
    match = NAME.match(requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def megabytes(packages: Iterable[str]) -> float:
    """Return the size of the packages' files, MB."""
    files = (file.locate() for name in packages for file in metadata.files(name) or [])
    return sum(Path(str(file)).stat().st_size for file in files if Path(str(file)).is_file()) / 1e6


def main() -> None:
    """Print the core's size, and what each extra adds to it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = closure([LEFT_OUT])
    core = closure(project["dependencies"]) - torch
    print(f"core: {len(core)} packages, {megabytes(core):.0f} MB, without torch")
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in ("all", "dev"):
            more = closure(requirements) - core - torch
            print(f"{extra}: {len(more)} more packages, {megabytes(more):.0f} MB")
    for name in sorted(core, key=lambda one: -megabytes([one]))[:10]:
        print(f"  {name} {megabytes([name]):.1f} MB")


if __name__ == "__main__":
    main()
