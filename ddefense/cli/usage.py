"""The help of a command: what most people need, or everything, in groups."""

import shutil
import textwrap
from collections.abc import Collection, Iterator

from absl import flags

_FLAGS = flags.FLAGS
HELP, FULL = ("-h", "-help", "--help"), ("-helpfull", "--helpfull")
# By where a flag is defined: a class of settings or a module of this package.
_GROUPS = {
    "Config": "Experiment",
    "DistillConfig": "Distillation",
    "Training": "Training",
    "Attacking": "Attacks",
    "data_flags": "Data",
    "Machine": "Machine",
    "executor_flags": "Several machines",
}
_WIDEST = 100


def asked(arguments: Collection[str]) -> str | None:
    """`short` or `full` if the arguments ask for help, else None."""
    words = set(arguments)
    if words & set(FULL):
        return "full"
    return "short" if words & set(HELP) else None


def text(command: str, about: str, shown: Collection[str], *, full: bool) -> str:
    """The help.

    Args:
        command: such as `bin/reproduce`.
        about: what it does, and how it is called.
        shown: names of the flags that most people need.
        full: whether to list the others, too.
    """
    ours = {
        flag.name: (module.rsplit(".", 1)[-1], flag)
        for module, found in _FLAGS.flags_by_module_dict().items()
        if not module.startswith("absl")
        for flag in found
    }
    names = [name for name in ours if full or name in shown]
    groups: dict[str, list[str]] = {title: [] for title in ("Run", *_GROUPS.values())}
    for name in names:
        groups[_GROUPS.get(ours[name][0], "Run")].append(name)
    lines = [about.strip()]
    for title, found in groups.items():
        if found:
            lines += ["", f"{title}:"]
            lines += [line for name in sorted(found) for line in _lines(ours[name][1])]
    if len(names) < len(ours):
        lines += ["", f"{command} --helpfull lists all {len(ours)} flags."]
    return "\n".join(lines)


def _lines(flag: "flags.Flag[object]") -> Iterator[str]:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    words = flag.help or ""
    if flag.default is not None and "Default:" not in words:
        words += f" Default: {flag.default_unparsed}."
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    yield f"  {name}"
    yield from textwrap.wrap(words, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
