"""The page about adapters: its grids hold the figures, it needs no script, and it takes no other file's place."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from command_line import lineament_here
from made_adapters import made, of_matrices

from lineament import save_stored_adapter
from lineament.report.grids import Cell, layer_grid, pair_grid


class Page(HTMLParser):
    """Tables with shaded cells by their caption, tags and ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.grids: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.inside, self.caption = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.inside = tag
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        if tag == "caption":
            self.caption = ""
        if tag == "tr":
            self.grids.setdefault(self.caption, []).append([])
        if tag in ("td", "th"):
            self.grids[self.caption][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "caption":
            self.caption += data
        if self.inside in ("td", "th"):
            self.grids[self.caption][-1][-1] += data.strip()


def page(tmp_path: Path, *folders: Path) -> tuple[str, dict[str, object]]:
    report = tmp_path / "page.html"
    done = lineament_here("adapters", *map(str, folders), "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"report: {report}\n")
    figures = json.loads(lineament_here("adapters", *map(str, folders), "--json").stdout)
    return report.read_text(), figures


def layers(n: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    kinds = {"self_attn.q_proj": (9, 8), "mlp.up_proj": (12, 8)}
    return {
        f"model.layers.{i}.{kind}": generator.standard_normal((d_out, 5)) @ generator.standard_normal((5, d_in))
        for i in range(n)
        for kind, (d_out, d_in) in kinds.items()
    }


def test_the_grids_hold_the_figures(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        save_stored_adapter(of_matrices(layers(3, seed)), tmp_path / name)
    text, figures = page(tmp_path, tmp_path / "a", tmp_path / "b")
    found = Page(text)
    adapters: list[dict[str, list[dict[str, object]]]] = figures["adapters"]  # type: ignore[assignment]
    for name, adapter in zip("ab", adapters, strict=True):
        head, *rows = found.grids[f"Rank used by {name}, by layer and module"]
        assert head == ["layer", "q_proj", "up_proj"]
        used = [str(module["rank_used"]) for module in adapter["by_module"]]
        assert [cell for row in rows for cell in row[1:]] == used
        assert [row[0] for row in rows] == ["0", "1", "2"]
        assert len(found.grids[f"All modules of {name}"]) == 7
    pair = figures["pairs"][0]  # type: ignore[index]
    _, *rows = found.grids["Overlap of what they write (left)"]
    overlaps = [f"{module['left']['value']:.2f}" for module in pair["by_module"]]
    assert [cell for row in rows for cell in row[1:]] == overlaps
    assert f"{pair['cosine']:+.3f}" in text


def test_the_page_needs_no_script_and_nothing_from_outside(tmp_path: Path) -> None:
    name = "<script>alert(1)</script> & [bold]".replace("/", "_")
    folders = [tmp_path / name, tmp_path / "b", tmp_path / "c", tmp_path / "d", tmp_path / "e"]
    for seed, folder in enumerate(folders):
        save_stored_adapter(of_matrices(layers(2, seed)), folder)
    text, _ = page(tmp_path, *folders)
    found = Page(text)
    assert "script" not in found.tags
    assert not re.search(r"""(src|href)=["'](?!#|data:,)""", text)
    assert {link.removeprefix("#") for link in found.links if link.startswith("#")} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert "5 on one base" in text
    square = found.grids["Cosine of dW, every pair"]
    assert [len(row) for row in square] == [6] * 6
    assert [square[i][i] for i in range(1, 6)] == [""] * 5
    assert len(text) < 100_000


def test_an_adapter_that_changes_nothing_has_a_page_without_grids(tmp_path: Path) -> None:
    fresh, _ = made(tmp_path / "fresh", init_lora_weights=True)
    moved, _ = made(tmp_path / "moved")
    assert "Rank used by fresh" not in page(tmp_path, fresh)[0]
    assert "so they have no angle" in page(tmp_path, fresh, moved)[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [("mine.html", "exists and is no report"), ("mine.txt", "must end in .html"), ("folder.html", "exists and is no")],
)
def test_a_page_takes_no_other_files_place(name: str, words: str, tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "a")
    (tmp_path / "mine.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    done = lineament_here("adapters", str(folder), "--report", str(tmp_path / name))
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_a_page_of_ours_is_written_anew(tmp_path: Path) -> None:
    first, _ = made(tmp_path / "a", seed=1)
    second, _ = made(tmp_path / "b", seed=2)
    assert page(tmp_path, first)[0] != page(tmp_path, second)[0]


def test_modules_without_a_layer_have_a_row_of_their_own() -> None:
    modules = [{"module": name} for name in ("model.layers.1.q", "model.layers.10.q", "model.layers.1.up", "lm_head")]
    grid = layer_grid("key", "title", modules, lambda module: Cell(module["module"], 0.5, ""), "")
    assert [name for name, _ in grid.rows] == ["1", "10", "other"]
    assert list(grid.columns) == ["q", "up", "lm_head"]
    texts = [[cell.text if cell else None for cell in cells] for _, cells in grid.rows]
    assert texts[1] == ["model.layers.10.q", None, None]
    assert texts[2] == [None, None, "lm_head"]


def test_kinds_of_modules_are_called_by_as_many_parts_as_tell_them_apart() -> None:
    names = ("encoder.0.attention.q", "decoder.0.attention.q", "decoder.0.mlp.up", "decoder.0.mlp.q")
    grid = layer_grid("key", "title", [{"module": name} for name in names], lambda module: Cell("", 0.5, ""), "")
    assert list(grid.columns) == ["encoder.attention.q", "decoder.attention.q", "up", "mlp.q"]


def test_shades_say_which_way_and_never_hide_a_number() -> None:
    assert Cell("", 0.5, "").style == "background: rgba(0, 114, 178, 0.35)"
    assert Cell("", -7.0, "").style == "background: rgba(213, 94, 0, 0.70)"
    square = pair_grid("key", "title", ["a", "b"], {("a", "b"): Cell("x", 1, "")}, "")
    assert [[cell.text if cell else None for cell in cells] for _, cells in square.rows] == [[None, "x"], ["x", None]]
