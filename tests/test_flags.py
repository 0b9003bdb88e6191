"""From dataclasses to flags: what is parsed, what the help says, what a wrong word is answered with, completion."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from command_line import lineament_here

from lineament import cli
from lineament.command_line.described import flags_of
from lineament.command_line.help_text import command_help
from lineament.command_line.markers import Positional, Said
from lineament.command_line.parser import parse
from lineament.command_line.written import line_of
from lineament.errors import InputError
from lineament.settings.fields import AnyFloat, PositiveInt

# Machine words that a person should not have to read.
NOT_WORDS = ("None", "{", "}", "STR", "INT", "FLOAT", "<class", "MISSING", "Literal", "()")


@dataclass(frozen=True)
class Parent:
    """What others inherit."""

    kept: PositiveInt | None = None
    """said by the parent"""
    out: Path | None = None
    """replaced"""


@dataclass(frozen=True, kw_only=True)
class Made(Parent):
    """Make something of it."""

    HEADING: ClassVar[str] = "Making"

    source: Positional[Path]
    """where from"""
    more: Positional[tuple[str, ...]] = ()
    """what else"""
    out: Path | None = None
    """where to"""
    share: AnyFloat = 0.5
    """how much"""
    kind: Literal["a", "b"] = "a"
    """which"""
    name: tuple[str, ...] = ()
    """called so"""
    dry_run: bool = False
    """do nothing"""
    loud: bool = True
    """say it"""
    told: Annotated[str, Said("made of parts", "WORD")] = ""


COMMANDS: dict[str, type] = {"make": Made, "two words": Parent}


def made(*words: str) -> Any:
    return parse("make", words, COMMANDS)


def test_words_become_fields() -> None:
    assert made("x") == Made(source=Path("x"))
    given = made("x", "--kept", "3", "--share=-1e-2", "p", "--name", "u", "q", "--name=v", "--dry-run", "--no-loud")
    wanted = {"kept": 3, "share": -0.01, "more": ("p", "q"), "name": ("u", "v"), "dry_run": True, "loud": False}
    assert given == Made(source=Path("x"), **wanted)
    assert made("x", "--dry_run").dry_run
    assert made("x", "--share", "-.5", "--share", "-2").share == -2, "the last one counts; a number is no flag"
    assert made("x", "--", "--kept", "-").more == ("--kept", "-")
    assert made("x", "-3", "-").more == ("-3", "-")
    assert made("x", "--told", "--hidden").told == "--hidden"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "`lineament make` needs SOURCE: where from."),
        (["x", "--kept", "many"], "--kept is 'many'; it must be a whole number."),
        (["x", "--share", "much"], "--share is 'much'; it must be a number."),
        (["x", "--kind", "c"], "--kind is 'c'; it must be one of a, b."),
        (["x", "--knid", "a"], "`lineament make` has no flag '--knid'. Did you mean '--kind'?"),
        (["x", "--kept"], "--kept needs a value, as in --kept N (said by the parent)."),
        (["x", "--kept", "--kind", "a"], "--kept needs a value"),
        (["x", "--dry-run=yes"], "--dry-run takes no value"),
        (["x", "--no-kept"], "has no flag '--no-kept'"),
        (["x", "--out="], "--out is empty; give a path."),
        (["x", "-k"], "has no flag '-k'"),
        (["x", "--[/red]\0"], "has no flag '--[/red]\\x00'"),
    ],
)
def test_whatever_does_not_fit_is_one_message(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        made(*words)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_line_is_written_as_short_as_it_can_be() -> None:
    request = made("a b", "-2", "--share=-1", "--no-loud", "--name", "n", "--dry-run", "--kind", "a")
    assert line_of("make", request) == "lineament make 'a b' -2 --share=-1.0 --name n --dry-run --no-loud"


def test_a_flag_that_is_repeated_may_have_to_be_given() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Needy:
        data: tuple[Path, ...]
        """what from"""
        others: Positional[tuple[str, ...]]
        """what else"""

    with pytest.raises(InputError, match="needs --data: what from"):
        parse("x", [], {"x": Needy})
    assert parse("x", ["--data", "a", "--data", "b"], {"x": Needy}) == Needy(data=(Path("a"), Path("b")), others=())


def test_a_flag_of_another_kind_is_a_mistake_of_ours() -> None:
    @dataclass(frozen=True)
    class Odd:
        pair: dict[str, int] = dataclasses.field(default_factory=dict)
        """cannot be written"""

    with pytest.raises(TypeError, match="pair is dict"):
        flags_of(Odd)


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_flag_of_every_command_is_parsed_to_its_field(name: str) -> None:
    """What is given is found again in the field, and nothing else has moved."""
    kind = cli.COMMANDS[name]
    samples: dict[type, str] = {int: "7", float: "0.25", str: "some", Path: "some/path"}
    must = [flag for flag in flags_of(kind) if flag.required or flag.field == "paths"]
    needed = [word for flag in must for word in example(flag, samples)]
    base = parse(name, needed, cli.COMMANDS)
    for flag in flags_of(kind):
        if flag.positional:
            continue
        sample = flag.choices[-1] if flag.choices else samples.get(flag.kind, "")
        words = [flag.name, sample] if sample else [flag.name]
        value = True if flag.kind is bool else flag.kind(words[1])
        parsed = parse(name, [*needed, *words], cli.COMMANDS)
        wanted = (*getattr(base, flag.field), value) if flag.several else value
        assert parsed == dataclasses.replace(base, **{flag.field: wanted})
        written = shlex.split(line_of(name, parsed))
        assert written[0] == "lineament"
        assert cli._parsed(written[1:]) == parsed


def example(flag: Any, samples: dict[type, str]) -> list[str]:
    value = flag.choices[0] if flag.choices else samples[flag.kind]
    return [value] if flag.positional else [flag.name, value]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_is_in_words_and_fits_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = lineament_here(*name.split(), "--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    assert max(map(len, shown.stdout.splitlines())) <= 80
    for word in NOT_WORDS:
        assert word not in shown.stdout.replace("{statement}", ""), word
    words = shown.stdout.split()
    for flag in flags_of(cli.COMMANDS[name]):
        assert flag.name in words
        assert flag.meaning, f"{name} {flag.name} says nothing"
        assert flag.meaning.split()[0] in words
        assert flag.default_words in " ".join(words)
        for choice in flag.choices:
            assert choice in shown.stdout


def test_flags_stand_under_their_headings() -> None:
    shown = command_help("make", Made)
    assert shown.startswith("Usage: lineament make SOURCE [MORE...] [OPTIONS]\n\nMake something of it.")
    own = shown[shown.index("\nMaking\n") :]
    assert "--out PATH            where to\n" in own
    assert "--told WORD           made of parts" in own
    assert "--name TEXT           called so; may be given several times\n" in own
    assert "--kind NAME           which; one of a, b; default a\n" in own
    assert "--loud                say it; default on" in own
    assert "--kept" in shown[shown.index("\nOptions\n") : shown.index("\nMaking\n")]
    assert "replaced" not in shown


def test_the_overview_has_every_command_by_aim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = lineament_here("--help").stdout
    assert max(map(len, shown.splitlines())) <= 80
    places = [shown.index(aim) for aim in cli.COMMANDS_BY_AIM]
    assert places == sorted(places)
    for name in cli.COMMANDS:
        assert f"\n  {name}" in shown
    actions = lineament_here("steer", "--help").stdout
    assert "steer generate" in actions
    assert "claims" not in actions


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["--help", "run synthetic"]),
        ("rn", ["'rn'", "'run'"]),
        ("steer", ["make, eval, generate"]),
        ("steer mak", ["'mak'", "'make'"]),
        ("run syntetic", ["'syntetic'", "'synthetic'", "synthetic, lm"]),
        ("run synthetic --lr 1e-3", ["'--lr'", "--set recovery.lr=1e-3", "training.lr", "lineament keys"]),
        ("run synthetic --recovery.lr=5e-4", ["--set recovery.lr=5e-4"]),
        ("run synthetic --steps 10", ["--set recovery.steps=10"]),
        ("run synthetic --sed 3", ["'--seed'"]),
        ("run synthetic lm", ["'lm'", "PROBLEM"]),
        ("keys --json", ["--json", "`claims`"]),
        ("--print-completion", ["bash or zsh"]),
        ("--print-completion fish", ["'fish'", "bash, zsh"]),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(line: str, words: list[str]) -> None:
    done = lineament_here(*line.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_the_settings_that_are_suggested_are_taken() -> None:
    said = lineament_here("run", "synthetic", "--lr", "1e-3").stderr
    setting = said.partition("--set ")[2].split()[0]
    flags = cli._parsed(["run", "synthetic", "--set", setting])
    assert flags.settings({}).recovery.lr == 1e-3


def test_the_first_seed_is_a_flag() -> None:
    assert cli._parsed(["run", "synthetic", "--seed", "7", "--set", "seed=3"]).settings({}).seed == 7


def completed(*words: str) -> set[str]:
    """What bash offers for the last of these words."""
    script = lineament_here("--print-completion", "bash").stdout
    line = " ".join(f"'{word}'" for word in ("lineament", *words))
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _lineament; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_flags_and_choices() -> None:
    assert completed("re") == {"report", "record-from-checkpoints"}
    assert completed("steer", "e") == {"eval", "export"}
    assert completed("steer", "make", "--la") == {"--layers"}
    assert completed("run", "--executor", "") == {"serial", "processes", "ray"}
    assert completed("run", "s") == {"synthetic"}
    assert completed("run", "synthetic", "--se") == {"--seed", "--seeds", "--set"}
    assert completed("nothing", "--se") == set()


def test_zsh_runs_the_function_of_bash() -> None:
    """Seen to complete commands, flags and choices in zsh 5.9, which few machines have."""
    bash, zsh = (lineament_here("--print-completion", shell).stdout for shell in ("bash", "zsh"))
    start = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
    assert zsh.index(start) < zsh.index("_lineament() {")
    assert zsh.replace(start, "").replace("--print-completion zsh", "--print-completion bash") == bash


def test_help_and_usage_errors_come_without_torch() -> None:
    for words in (["--help"], ["run", "--help"], ["run", "synthetic", "--lr", "1"], ["--print-completion", "bash"]):
        code = "import sys; from lineament.cli import main; main(sys.argv[1:]); sys.exit('numpy' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


# What zsh's bashcompinit does before it calls a function of bash: words are counted from 0 and split as in sh.
ASK_ZSH = """\
ask() {{
    setopt localoptions ksharrays shwordsplit
    COMP_WORDS=({words}); COMP_CWORD={last}; _lineament; print -l -- "${{COMPREPLY[@]}}"
}}
ask; print -- "${{_comps[lineament]}}"
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh: `make ci-deps` installs it")
@pytest.mark.parametrize(
    ("words", "wanted", "others"),
    [
        (("steer", "e"), {"make", "eval", "generate"}, {"claims", "--layers"}),
        (("run", "--executor", ""), {"serial", "processes", "ray"}, {"--executor"}),
        (("steer", "make", "--la"), {"--layers", "--method"}, {"--doses", "serial"}),
    ],
)
def test_zsh_knows_the_function_and_what_it_offers(
    words: tuple[str, ...], wanted: set[str], others: set[str], tmp_path: Path
) -> None:
    script = lineament_here("--print-completion", "zsh").stdout
    ask = ASK_ZSH.format(words=" ".join(map(repr, ("lineament", *words))), last=len(words))
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = ["zsh", "-f", "-c", f"{script}\n{ask}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, stdin=subprocess.DEVNULL, timeout=60
    )
    *offered, known = done.stdout.split("\n")[:-1]
    assert wanted <= set(offered)
    assert not others & set(offered)
    assert "_lineament" in known
