"""Write docs/gallery: a page for each example, with its text, its code, what it prints and the picture that it makes.

    python docs/make_gallery.py                 run all examples, and write their pages and pictures
    python docs/make_gallery.py two_adapters    run one
    python docs/make_gallery.py --text          run nothing: take over changed words and code, keep what was printed
    python docs/make_gallery.py --check         exit 1 if a page lacks text or code of its example; runs nothing

Needs chromium, which turns figures of plotly into SVG files.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import plotly.graph_objects as go
import plotly.offline
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from lineament.report.figures import Figure

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, PAGES, IMAGES = ROOT / "examples", ROOT / "docs" / "gallery", ROOT / "docs" / "images" / "gallery"
# Heading -> examples, in the order of the page.
GALLERY = {
    "Recordings, captures and drift": ("record_any_training", "measure_your_model", "stale_planes", "quadratic_krylov"),
    "Random search": ("best_of_n",),
    "Steering": ("steer_a_model",),
    "Training in a subspace": ("train_in_a_subspace",),
    "Adapters": ("what_an_adapter_uses", "two_adapters"),
    "Local geometry": ("order_of_fine_tuning",),
    "Results": ("read_results",),
    "Models and tasks of your own": ("gpt2_from_scratch", "own_task"),
}
WIDTH, HEIGHT = 760, 430
OUTPUT = re.compile(r"(?ms)^```text\n.*?^```\n\n")
CODE = re.compile(r"(?ms)^``` \{ \.python \}\n.*?^```\n\n(?:```text\n(.*?)\n```\n\n)?")
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"


def cells(name: str) -> list[tuple[bool, str, int]]:
    """Cells of an example: whether it is text, what it holds, and its first line."""
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %%")] + [len(lines)]
    found = []
    for start, stop in itertools.pairwise(starts):
        text = "[markdown]" in lines[start]
        body = [line.removeprefix("#").removeprefix(" ") if text else line for line in lines[start + 1 : stop]]
        found.append((text, "\n".join(body).strip("\n"), start + 1))
    return [cell for cell in found if cell[1]]


def title(name: str) -> str:
    """Heading of an example."""
    return cells(name)[0][1].splitlines()[0].removeprefix("# ")


def summary(name: str) -> str:
    """First sentence below the heading of an example."""
    paragraph = " ".join(cells(name)[0][1].split("\n\n")[1].split())
    return re.split(r"(?<=[.?!:]) (?=[A-Z])", paragraph)[0].rstrip(".:") + "."


def run(name: str) -> tuple[list[str], Any]:
    """Run the cells of an example in a folder of their own; return what each printed, and the figure."""
    printed, names, here = [], {"__name__": name, "__file__": str(EXAMPLES / f"{name}.py")}, Path.cwd()
    argv, sys.argv = sys.argv, [name]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for text, body, line in cells(name):
                out = io.StringIO()
                if not text:
                    code = compile("\n" * line + body, names["__file__"], "exec")
                    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                        exec(code, names)
                printed.append(out.getvalue().strip("\n"))
        finally:
            os.chdir(here)
            sys.argv = argv
    return printed, names["figure"]


def page(name: str, printed: list[str]) -> str:
    """A page in Markdown: text and code as they stand, with what the code printed below it."""
    parts = []
    for (text, body, _), output in zip(cells(name), printed, strict=True):
        parts.append(body if text else f"``` {{ .python }}\n{body}\n```")
        if output:
            parts.append(f"```text\n{output}\n```")
    parts.append(f"![What the example draws](../images/gallery/{name}.svg)")
    made = f"<!-- made from examples/{name}.py by docs/make_gallery.py -->"
    return "\n\n".join([*parts, f"*The whole file is `examples/{name}.py`.*", f"{made}\n"])


def index() -> str:
    """The gallery itself: a picture, a name and a sentence for each example."""
    parts = ["# Gallery"]
    parts.append(
        "Examples that run in seconds on a CPU, each with the picture that it made. They are plain scripts whose "
        "`# %%` marks open as cells in VS Code, PyCharm and Jupytext; every one is run by the tests. Those that "
        "draw a picture of their own need plotly: `pip install 'lineament[notebook]'`."
    )
    for heading, names in GALLERY.items():
        cards = [
            f"[![{title(name)}](../images/gallery/{name}.svg)]({name}.md)\n\n**[{title(name)}]({name}.md)**\n\n"
            f"{summary(name)}"
            for name in names
        ]
        inside = "\n\n".join(f'<div markdown="1">\n\n{card}\n\n</div>' for card in cards)
        parts.append(f'## {heading}\n\n<div class="gallery" markdown="1">\n\n{inside}\n\n</div>')
    return "\n\n".join([*parts, "<!-- made by docs/make_gallery.py -->\n"])


def drawn(figure: go.Figure | Figure) -> str:
    """Draw a figure as SVG; those of reports are."""
    if isinstance(figure, Figure):
        return figure.svg
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
    draw = """
        const [figure, width, height, done] = arguments;
        Plotly.newPlot(document.body, figure.data, figure.layout)
          .then(plot => Plotly.toImage(plot, {format: 'svg', width, height})).then(done);"""
    try:
        with tempfile.TemporaryDirectory() as folder:
            blank = Path(folder) / "page.html"
            blank.write_text(f"<!doctype html><script>{plotly.offline.get_plotlyjs()}</script><body></body>")
            browser.get(blank.as_uri())
            height = int(figure.layout.height or HEIGHT)
            return svg(browser.execute_async_script(draw, json.loads(figure.to_json()), WIDTH, height))
    finally:
        browser.quit()


def svg(address: str) -> str:
    """Content of a data address."""
    head, _, body = address.partition(",")
    return base64.b64decode(body).decode() if head.endswith("base64") else unquote(body)


def kept(name: str) -> list[str]:
    """What the cells of an example printed when its page was made; nothing where it has other cells now."""
    printed = iter(CODE.findall((PAGES / f"{name}.md").read_text()))
    return ["" if text else next(printed, "") for text, _, _ in cells(name)]


def missing() -> list[str]:
    """Pages that lack text or code of their example, and examples that the gallery lacks."""
    listed = [name for names in GALLERY.values() for name in names]
    wrong = sorted({path.stem for path in EXAMPLES.glob("*.py")} ^ set(listed))
    wrong += ["index"] if not (PAGES / "index.md").is_file() or (PAGES / "index.md").read_text() != index() else []
    for name in set(listed) - set(wrong):
        file = PAGES / f"{name}.md"
        held = OUTPUT.sub("", file.read_text()) if file.is_file() else ""
        if held != page(name, ["" for _ in cells(name)]) or not (IMAGES / f"{name}.svg").is_file():
            wrong.append(name)
    return wrong


def main(arguments: list[str]) -> int:
    """Write pages and pictures, or with --check only say whether they are up to date."""
    if "--check" in arguments:
        for name in missing():
            print(f"docs/gallery: {name} is not up to date", file=sys.stderr)
        return 1 if missing() else 0
    if "--text" in arguments:
        for name in [name for name in missing() if (PAGES / f"{name}.md").is_file() and name != "index"]:
            (PAGES / f"{name}.md").write_text(page(name, kept(name)))
        (PAGES / "index.md").write_text(index())
        return 0
    for folder in (PAGES, IMAGES):
        folder.mkdir(exist_ok=True, parents=True)
    for name in arguments or [name for names in GALLERY.values() for name in names]:
        printed, figure = run(name)
        (IMAGES / f"{name}.svg").write_text(drawn(figure))
        (PAGES / f"{name}.md").write_text(page(name, printed))
    (PAGES / "index.md").write_text(index())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
