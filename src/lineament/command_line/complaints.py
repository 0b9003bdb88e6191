"""What is said of a command or a flag that there is not: the nearest one, and the setting that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lineament.command_line.described import flags_of
from lineament.errors import InputError, did_you_mean
from lineament.files.reading import shown
from lineament.settings.keys import KEYS

# Of settings that end in the same word, the one that is meant most often stands in these groups, in this order.
FIRST_GROUPS = ("recovery", "measurement", "training", "damage")
MOST_NAMED = 3


def unknown_command(words: Sequence[str], commands: Mapping[str, type]) -> InputError:
    """Make the error for a line that begins with no command."""
    first = words[0]
    of_two = [name for name in commands if name.startswith(f"{first} ")]
    if of_two:
        actions = [name.split()[1] for name in of_two]
        near = did_you_mean(words[1], actions) if len(words) > 1 else ""
        what = f"has no {shown(words[1])}" if len(words) > 1 else "needs to know what to do"
        there = f"There are {', '.join(actions)}; `lineament {first} --help` says what each does."
        return InputError(f"`lineament {first}` {what}.{near} {there}")
    near = did_you_mean(first, {name.split()[0] for name in commands})
    return InputError(f"there is no command {shown(first)}.{near} `lineament --help` lists all.")


def unknown_flag(name: str, flag: str, value: str, commands: Mapping[str, type]) -> InputError:
    """Make the error for a flag that a command does not have.

    Args:
        value: what follows the flag, for the setting that is written instead.
    """
    own = [flag.name for flag in flags_of(commands[name]) if not flag.positional]
    advice = _setting(flag, value) if "--set" in own else ""
    advice = advice or did_you_mean(flag, own) or _elsewhere(flag, commands)
    more = "`lineament keys` lists all settings" if "--set" in advice else f"`lineament {name} --help` lists all flags"
    return InputError(f"`lineament {name}` has no flag {shown(flag)}.{advice} {more}.")


def _setting(flag: str, value: str) -> str:
    """Return the settings that the flag may mean, as --set writes them; empty where there are none."""
    asked = flag.lstrip("-").replace("-", "_")
    keys = [key for key in KEYS if asked in (key, key.rpartition(".")[2])]
    keys.sort(key=lambda key: [*FIRST_GROUPS, _group(key)].index(_group(key)))
    if not keys:
        return ""
    shown_value = shown(value)[1:-1] if value and not value.startswith("-") else "VALUE"
    others = f", or {', '.join(keys[1:MOST_NAMED])}" if keys[1:] else ""
    meaning = KEYS[keys[0]].meaning.rstrip(".")
    said = f"--set {keys[0]}={shown_value} ({meaning[:1].lower()}{meaning[1:]}){others}"
    return f" It is a setting: {said}."


def _group(key: str) -> str:
    return key.partition(".")[0]


def _elsewhere(flag: str, commands: Mapping[str, type]) -> str:
    """Name the commands that have the flag."""
    have = [f"`{name}`" for name, kind in commands.items() if flag in (own.name for own in flags_of(kind))]
    return f" It is a flag of {', '.join(have[:MOST_NAMED])}." if have else ""
