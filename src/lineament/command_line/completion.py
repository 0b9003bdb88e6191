"""A script that completes commands, flags and choices in a shell, made of what the commands declare."""

from __future__ import annotations

from collections.abc import Mapping

from lineament.command_line.described import Flag, flags_of
from lineament.errors import InputError, unknown_name

SHELLS = ("bash", "zsh")
# zsh runs the same function; this makes bash's `complete` and `compgen` known to it.
FOR_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
SCRIPT = """\
# Completion of lineament; load it with: {load}
{start}_lineament() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} name=${{COMP_WORDS[1]}} words=
    [[ $name == steer && $COMP_CWORD -gt 2 ]] && name="$name ${{COMP_WORDS[2]}}"
    COMPREPLY=()
    if [[ $COMP_CWORD -eq 1 ]]; then
        words="{first} --help --version --print-completion"
    else
        case "$name|$before" in
{choices}
        esac
        if [[ -z $words ]]; then
            case "$name" in
{commands}
            esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -o bashdefault -F _lineament lineament"""


def completion_script(shell: str, commands: Mapping[str, type]) -> str:
    """Return the script for a shell; where it knows nothing, the shell completes paths.

    Raises:
        InputError: another shell.
    """
    if not shell:
        raise InputError(f"--print-completion needs the name of a shell: {' or '.join(SHELLS)}.")
    if shell not in SHELLS:
        raise unknown_name("completion for the shell", shell, SHELLS)
    groups: dict[str, list[str]] = {}
    for name in commands:
        head, _, action = name.partition(" ")
        groups.setdefault(head, []).extend([action] if action else [])
    lines = [f'                {head}) words="{" ".join(actions)}" ;;' for head, actions in groups.items() if actions]
    choices: list[str] = []
    for name, kind in commands.items():
        flags = flags_of(kind)
        lines.append(f'                "{name}") words="{" ".join(_words(flags))}" ;;')
        choices += [f'            "{name}|{flag.name}") words="{" ".join(flag.choices)}" ;;' for flag in _chosen(flags)]
    return SCRIPT.format(
        load=f'eval "$(lineament --print-completion {shell})"',
        start=FOR_ZSH if shell == "zsh" else "",
        first=" ".join(groups),
        choices="\n".join(choices),
        commands="\n".join(lines),
    )


def _words(flags: tuple[Flag, ...]) -> list[str]:
    """Return what may follow a command: values of an argument that is chosen, and flags."""
    chosen = [choice for flag in flags if flag.positional for choice in flag.choices]
    return [*chosen, *(flag.name for flag in flags if not flag.positional), "--help"]


def _chosen(flags: tuple[Flag, ...]) -> list[Flag]:
    return [flag for flag in flags if flag.choices and not flag.positional]
