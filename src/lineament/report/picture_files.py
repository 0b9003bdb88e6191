"""Pictures of a report as files, SVG and PNG, each with its title and caption; no browser is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from lineament.errors import InputError
from lineament.files.folders import require_writable
from lineament.files.naming import safe_name
from lineament.files.reading import read_bytes
from lineament.files.writing import write_bytes
from lineament.report.figures import Pictures
from lineament.report.series import Picture
from lineament.report.svg.png import png, require_png
from lineament.report.svg.standalone import MAKER, standalone

FileKind = Literal["svg", "png"]
KINDS: tuple[FileKind, ...] = ("svg", "png")
OPTION = "--figures"
HEAD = 400  # bytes in which our files say that they are


def require_figures(folder: Path, kinds: Sequence[FileKind]) -> None:
    """Raise `InputError` unless pictures of these kinds can be made here and written into this folder."""
    require_writable(folder, OPTION)
    if "png" in kinds:
        require_png()


def named_pictures(pictures: Pictures) -> dict[str, Picture]:
    """Return file name -> picture: the name that `plot` takes, and the target where several have the picture."""
    return {
        safe_name(f"{name}-{target}" if len(of) > 1 else name): picture
        for name, of in pictures.items()
        for target, picture in of.items()
    }


def require_no_foreign(folder: Path, names: Sequence[str], kinds: Sequence[FileKind]) -> None:
    """Raise `InputError` if a file in the folder has the name of a picture and was not made here."""
    for path in (folder / f"{name}.{kind}" for name in names for kind in kinds):
        if path.exists() and (not path.is_file() or MAKER.encode() not in read_bytes(path)[:HEAD]):
            raise InputError(
                f"{path} is no picture of Lineament's, so it is kept. Move it, or choose another {OPTION}."
            )


def write_figures(
    pictures: Mapping[str, Picture], folder: Path, kinds: Sequence[FileKind], begun: Callable[[str], None]
) -> int:
    """Write `NAME.svg` and `NAME.png` of every picture; other files in the folder stay.

    Args:
        pictures: file name -> picture.
        begun: called with each name before its picture is made.

    Returns:
        How many files were written.

    Raises:
        InputError: the folder cannot be written, holds other files of these names, or PNG cannot be made here.
    """
    require_figures(folder, kinds)
    require_no_foreign(folder, list(pictures), kinds)
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name, picture in pictures.items():
        begun(name)
        for kind, content in _files(picture, kinds):
            write_bytes(folder / f"{name}.{kind}", content)
            written += 1
    return written


def _files(picture: Picture, kinds: Sequence[FileKind]) -> Iterator[tuple[FileKind, bytes]]:
    for kind in kinds:
        yield kind, png(picture) if kind == "png" else standalone(picture).encode()
