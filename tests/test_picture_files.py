"""Pictures as files: what an SVG holds and where its marks stand, PNG without a browser, whose files are replaced."""

from __future__ import annotations

import math
import re
import struct
import sys
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_svg import NAMESPACE, circles, one_series, parsed

from lineament import cli
from lineament.errors import InputError
from lineament.report.estimates import Estimate
from lineament.report.figures import Figure
from lineament.report.picture_files import KINDS, named_pictures, require_figures, write_figures
from lineament.report.series import BLUE, GREY, VERMILLION, Line, Matrix, Panel, Picture, Style, Surface
from lineament.report.svg import surfaces
from lineament.report.svg.axes import Area, Axis, axes_of
from lineament.report.svg.elements import ALONE, path, text_width, wrapped
from lineament.report.svg.panels import panel_drawn
from lineament.report.svg.png import png
from lineament.report.svg.standalone import standalone
from lineament.report.svg.surfaces import surface_drawn


def line(key: str, x: Sequence[float], y: Sequence[float | None], **how: object) -> Line:
    points = [Estimate(value, None if value is None else value - 0.1, value and value + 0.1, 3) for value in y]
    return Line(key, f"label <{key}>", "own", Style(BLUE), x, points, **how)  # type: ignore[arg-type]


def panel(*lines: Line, **how: object) -> Panel:
    return Panel("a panel", "across", "up", lines, **how)  # type: ignore[arg-type]


def picture(*panels: Panel | Matrix | Surface) -> Picture:
    return Picture("made", "One & two are < three", "What it is.", panels, [])


def by_key(root: ET.Element, key: str) -> list[ET.Element]:
    return [g for g in root.iter(f"{NAMESPACE}g") if g.get("data-key") == key]


def series_of(root: ET.Element, key: str) -> ET.Element:
    return next(group for group in by_key(root, key) if group.get("stroke"))


def test_a_file_tells_what_it_shows_and_holds_every_point() -> None:
    text = standalone(picture(panel(line("a", [1, 2, 3], [0.1, 0.5, 0.9]), line("b", [1], [0.2], shown=False))))
    root = parsed(text)
    said = " ".join(element.text or "" for element in root.iter())
    for words in (
        "One & two are < three",
        "What it is.",
        "a panel",
        "across",
        "up",
        "label <a>",
        "x 2: 0.5 [0.4, 0.6]",
    ):
        assert words in said
    assert len(circles(series_of(root, "a"))) == 3
    assert by_key(root, "b") == [], "a series that waits is drawn"
    assert text == standalone(picture(panel(line("a", [1, 2, 3], [0.1, 0.5, 0.9]), line("b", [1], [0.2], shown=False))))
    assert not re.search(r"var\(|\bnan\b|\binf\b", text)


def test_marks_stand_where_the_axes_say() -> None:
    made = panel(line("a", [1, 10, 100], [0.0, 0.5, 1.0], mode="dots"), x_log=True)
    (x, y), (points,) = axes_of(made), [circles(one_series(picture(made), "a"))]
    across, up = (np.diff([place[i] for place in points]) for i in (0, 1))
    assert across == pytest.approx([across[0]] * 2, abs=0.11), "decades are equally wide"
    assert up == pytest.approx([up[0]] * 2, abs=0.11)
    assert up[0] < 0, "up is up"
    assert x.share(1) == pytest.approx(1 - (x.share(100) or 0))
    assert y.share(0) == pytest.approx(0.03 / 1.08)
    assert x.share(0) is x.share(-1) is y.share(None) is y.share(math.nan) is None


def test_a_gap_breaks_the_line_and_has_no_mark() -> None:
    group = one_series(picture(panel(line("a", [1, 2, 3, 4], [0.1, None, 0.3, 0.4]))), "a")
    assert len(circles(group)) == 3
    lines = [p.get("d", "") for p in group.iter(f"{NAMESPACE}path") if p.get("stroke-width") == "2"]
    assert [d.count("M") for d in lines] == [2]


def test_bars_reach_from_end_to_end_and_below_zero_to_the_edge() -> None:
    made = panel(line("a", [1], [0.5]), fraction=False, y_range=(0.0, 1.0))
    (d,) = (p.get("d", "") for p in parsed(standalone(picture(made))).iter(f"{NAMESPACE}path") if p.get("class"))
    low, high = (float(found) for found in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", d)[0])
    assert low - high == pytest.approx(0.2 * 270, abs=0.2)
    log = panel(line("a", [1], [0.05]), fraction=False, y_log=True, y_range=(-2.0, 0.0))
    assert "M" in standalone(picture(log)), "an interval below 0 on a logarithmic axis"


@pytest.mark.parametrize("log", [True, False])
def test_ticks_are_round_and_inside(log: bool) -> None:
    for low, high in [(0.0, 1.0), (-3.2, 4.1), (1e-6, 2e-6), (10.0, 10.5), (-2.0, 250000.0 if not log else 5.0)]:
        values = [10**low, 10**high] if log else [low, high]
        _, y = axes_of(panel(line("a", [1, 2], values, bars=False, mode="plain"), fraction=False, y_log=log))
        shares = [y.share(value) for value, _ in y.ticks]
        assert 2 <= len(shares) <= 10, (low, high, y.ticks)
        assert all(share is not None and -1e-9 <= share <= 1 + 1e-9 for share in shares)
        assert len({text for _, text in y.ticks}) == len(y.ticks)


def test_one_value_and_no_value_have_axes_too() -> None:
    for values in ([0.3], [0.0], [None]):
        for log in (True, False):
            text = standalone(picture(panel(line("a", [2], values), fraction=False, y_log=log, x_log=log)))
            assert "nan" not in text
    assert parsed(standalone(picture(panel(fraction=False))))


def test_rows_and_names_are_written_out() -> None:
    rows = panel(line("a", [0, 1], [0.2, 0.4], mode="dots"), rows=["a row with a rather long name", "short"])
    root = parsed(standalone(picture(rows)))
    said = [t.text for t in root.iter(f"{NAMESPACE}text")]
    assert {"short", "a row with a rather"} <= set(said)
    (first, second) = circles(series_of(root, "a"))
    assert first[1] < second[1], "the first row is on top"
    assert second[0] > first[0]


def test_a_matrix_has_both_halves_and_readable_numbers() -> None:
    cells = {(0, 0): Estimate(0.1), (0, 1): Estimate(-20000.0), (1, 1): Estimate(None, reason="none")}
    root = parsed(standalone(picture(Matrix("pairs", ["one", "two"], cells, {(0, 1): 1.0}))))
    texts = [t.text for t in root.iter(f"{NAMESPACE}text")]
    assert texts.count("-2e4") == 2
    assert texts.count(".1") == 1
    fills = {r.get("fill") for r in root.iter(f"{NAMESPACE}rect")}
    assert {"#e8f1f8", "#08306b"} <= fills


def tilted(size: int = 5) -> Surface:
    places = [float(i) for i in range(size)]
    values = {(x, y): Estimate(x + 2 * y) for x in places for y in places}
    return Surface("loss", "s", "t", places, places, values, values, (1.0, 1.0, "best"))


def test_lines_of_a_surface_stand_where_a_plane_has_their_value() -> None:
    surface = tilted()
    area = Area(0, 0, 400, 400, Axis(0, 4, []), Axis(0, 4, []))
    found = surface_drawn(surface, area, ALONE)
    levels = surfaces._levels(surface.measured.values())[1:]
    groups = parsed(f'<g xmlns="http://www.w3.org/2000/svg">{found}</g>')
    dashed = [p.get("d", "") for p in groups.iter(f"{NAMESPACE}path") if p.get("stroke-dasharray")]
    assert len(dashed) == sum(level < 12 for level in levels)
    for level, d in zip(levels, dashed, strict=False):
        for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", d):
            assert float(x) / 100 + 2 * (4 - float(y) / 100) == pytest.approx(level, abs=0.004)


def test_a_surface_with_a_gap_is_drawn_around_it() -> None:
    surface = tilted()
    broken = {**surface.measured, (2.0, 2.0): Estimate(None, reason="nan")}
    text = standalone(picture(replace(surface, measured=broken)))
    assert "nan" not in re.sub(r"undefined: nan", "", text)
    whole = standalone(picture(surface))
    assert len(re.findall("Z", text)) < len(re.findall("Z", whole))


def test_text_is_wrapped_at_spaces_and_points_that_look_like_one_are_one() -> None:
    lines = wrapped("one two three four five", 10, text_width("one two three", 10) + 1)
    assert lines == ["one two three", "four five"]
    assert path([(0, 0), (0.1, 0), (5, 0), None, (7, 1)]) == "M0 0L5 0M7 1"
    assert path([(0, 0), (5, 0), (5.2, 0)]) == "M0 0L5 0L5.2 0", "the last point stays"


def test_every_panel_is_inside_of_its_size() -> None:
    for made in (panel(line("a", [1, 2], [0.1, 0.2])), tilted(), Matrix("m", ["a"], {}, {})):
        for small in (True, False):
            drawing = panel_drawn(made, small, ALONE)
            assert drawing.height > 0
            root = parsed(f'<svg xmlns="http://www.w3.org/2000/svg">{drawing.body}</svg>')
            for text in root.iter(f"{NAMESPACE}text"):
                assert float(text.get("y", "0")) <= drawing.height


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG, their checksums tested."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    found, place = [], 8
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        body = content[place + 4 : place + 8 + size]
        assert zlib.crc32(body) == struct.unpack(">I", content[place + 8 + size : place + 12 + size])[0]
        found.append((body[:4], body[4:]))
        place += 12 + size
    return found


def test_a_png_is_sharp_not_empty_and_says_what_it_is() -> None:
    made = picture(panel(line("a", [1, 2, 3], [0.1, 0.5, 0.9])))
    found = chunks(png(made))
    assert found[0][0] == b"IHDR"
    width, height = struct.unpack(">II", found[0][1][:8])
    root = parsed(standalone(made))
    assert (width, height) == (2 * float(root.get("width", "")), 2 * float(root.get("height", "")))
    texts = [body for kind, body in found if kind == b"iTXt"]
    assert [body.split(b"\0")[0] for body in texts] == [b"Software", b"Title", b"Description"]
    assert texts[1].endswith(b"One & two are < three")
    pixels = zlib.decompress(b"".join(body for kind, body in found if kind == b"IDAT"))
    assert len(set(pixels)) > 50


def test_a_machine_without_fonts_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resvg_py

    render = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **given: render(**given, skip_system_fonts=True))
    with pytest.raises(InputError, match="no font was found here"):
        require_figures(tmp_path, KINDS)
    require_figures(tmp_path, ["svg"])


def test_files_of_others_stay_and_are_never_written_over(tmp_path: Path) -> None:
    made = {"made": picture(panel(line("a", [1], [0.1])))}
    folder = tmp_path / "new" / "figures"
    begun: list[str] = []
    assert write_figures(made, folder, KINDS, begun.append) == 2
    assert begun == ["made"]
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"made.svg", "made.png"}
    (folder / "mine.svg").write_text("<svg/>")
    assert write_figures(made, folder, KINDS, begun.append) == 2, "one's own are made again"
    assert (folder / "mine.svg").read_text() == "<svg/>"
    (folder / "made.png").write_bytes(b"a picture of somebody else")
    (folder / "made.svg").unlink()
    with pytest.raises(InputError, match=r"made\.png is no picture of Lineament's"):
        write_figures(made, folder, KINDS, begun.append)
    assert not (folder / "made.svg").exists()
    assert (folder / "made.png").read_bytes() == b"a picture of somebody else"


def test_names_have_the_target_where_several_have_the_picture() -> None:
    one = picture()
    assert list(named_pictures({"a": {"x": one}, "b": {"x": one, "y/z": one}}))[:2] == ["a", "b-x"]
    assert all("/" not in name for name in named_pictures({"b": {"x": one, "../y": one}}))


def test_the_command_writes_every_picture_of_a_run(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "figures"
    assert cli.main(["report", str(copied), "--figures", str(folder), "--figure-kind", "svg", "--quiet"]) == 0
    names = {path.stem for path in folder.iterdir()}
    assert {"capture", "spectrum", "recover"} <= names
    assert capsys.readouterr().out.splitlines() == [f"{copied / 'report.html'}", f"{len(names)} pictures: {folder}"]
    for file in folder.iterdir():
        assert parsed(file.read_text()).tag == f"{NAMESPACE}svg"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--figure-kind", "png"], "say where: --figures DIR"),
        (["--figures", "a-file"], "is a file; --figures names a folder"),
        (["--figures", "taken"], "capture.svg is no picture of Lineament's"),
        (["--figures", "figures", "--figure-kind", "gif"], "gif"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    copied: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copied)
    Path("a-file").write_text("")
    Path("taken").mkdir()
    Path("taken/capture.svg").write_text("mine")
    Path("report.html").unlink()
    assert cli.main(["report", ".", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("report.html").exists()
    assert not Path("figures").exists()
    assert [path.name for path in Path("taken").iterdir()] == ["capture.svg"]


def test_a_png_without_its_package_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(InputError, match=r"needs resvg_py.*pip install 'lineament\[figures\]'"):
        write_figures({"made": picture()}, tmp_path / "out", KINDS, lambda name: None)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="needs resvg_py"):
        Figure(picture()).save(tmp_path / "a.png")
    made = picture(panel())
    assert Figure(made).save(tmp_path / "a.svg").read_text() == standalone(made)


def test_a_figure_is_saved_as_its_name_says(tmp_path: Path) -> None:
    figure = Figure(picture(panel(line("a", [1], [0.1]))))
    assert figure.save(tmp_path / "a.svg").read_text() == figure.svg == figure._repr_html_()
    assert figure.save(str(tmp_path / "a.png")).read_bytes() == png(figure.picture)
    with pytest.raises(InputError, match=r"has to end in \.svg or \.png"):
        figure.save(tmp_path / "a.pdf")
    assert {path.name for path in tmp_path.iterdir()} == {"a.svg", "a.png"}
    assert repr(figure) == f"Figure {figure.title!r}"


def test_colours_of_a_file_are_light_and_those_of_series_stay() -> None:
    styles = [
        Style(VERMILLION, symbol=s)
        for s in ("square", "diamond", "triangle-up", "triangle-down", "triangle-left", "star", "x")
    ]
    lines = [
        Line(s.symbol, s.symbol, "own", s, [i], [Estimate(0.5)])
        for i, s in enumerate([*styles, Style(GREY, open=True)])
    ]
    text = standalone(picture(panel(*lines)))
    assert text.count(VERMILLION) >= 14
    assert "var(" not in text
