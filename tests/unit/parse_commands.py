"""Reads command lines as the programs of this checkout do, without the work that follows.

    python tests/unit/parse_commands.py < commands.json > answers.json

A command is `{"words": [...], "whole": true}`. Its flags are parsed by the program's own parser.
Where it is whole, and not a mention of a flag, values are checked as the program checks them before
any work. An answer is `[exit status, what was printed]`. Every command is read in a copy of this
process, because flags belong to a process, and importing takes longer than everything else.
"""

import argparse
import importlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import runpy
import sys
import tempfile
import traceback
from typing import Any

_ROOT = pathlib.Path(__file__).parents[2]


def main() -> None:
    """Answers what stands on standard input."""
    commands = json.load(sys.stdin)
    # Once, for all copies.
    for name in {command["words"][0] for command in commands}:
        if (module := _module_of(name)) is not None:
            importlib.import_module(module)
    answers = [_answer(command["words"], command["whole"]) for command in commands]
    json.dump(answers, sys.stdout)


def _module_of(program: str) -> str | None:
    """The module behind one of the package's commands; None for every other program."""
    name = program.removeprefix("bin/").removeprefix("ddefense-")
    if name in (program, "setup", "test"):
        return None
    return f"ddefense.cli.{'main' if name == 'reproduce' else name}"


def _answer(words: list[str], whole: bool) -> tuple[int, str]:
    with tempfile.TemporaryFile("w+") as printed:
        process = os.fork()
        if process == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            os._exit(_status(words, whole))
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        printed.seek(0)
        return status, printed.read()


def _status(words: list[str], whole: bool) -> int:
    """The exit status of this copy of the process."""
    status: Any = 0
    try:
        _parse(words, whole)
    except SystemExit as left:
        status = left.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)  # noqa: T201
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(status)


def _parse(words: list[str], whole: bool) -> None:
    sys.argv = words
    if (module := _module_of(words[0])) is not None:
        _without_work(whole)
        importlib.import_module(module).run()
    elif words[0] in ("bin/setup", "bin/test"):
        script = _load(words[0])
        idle = ("set_up", "choose_python", "run_all", "run_quick")
        for name in idle:
            setattr(script, name, lambda *_: 0)
        sys.exit(script.main())
    else:
        _parse_script(words[1:])


def _without_work(whole: bool) -> None:
    from ddefense.cli import program

    def idle(run: Any) -> Any:
        def parsed(command: str, define: Any, configure: Any, _: Any, *, shown: Any) -> None:
            configure = configure if whole else lambda *_: (None, None)
            run(command, define, configure, lambda *_: None, shown=shown)

        return parsed

    for name in ("run", "run_once", "run_on"):
        setattr(program, name, idle(getattr(program, name)))


def _load(path: str) -> Any:
    loader = importlib.machinery.SourceFileLoader("script", str(_ROOT / path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def _parse_script(words: list[str]) -> None:
    path = _ROOT / words[0]
    sys.argv = [str(path), *words[1:]]
    sys.path.insert(0, str(path.parent))
    names = runpy.run_path(str(path), run_name="parsed")
    if "_parse" in names:
        names["_parse"]()
        return

    original = argparse.ArgumentParser.parse_args

    def parse_and_leave(*arguments: Any, **settings: Any) -> None:
        original(*arguments, **settings)
        sys.exit(0)

    argparse.ArgumentParser.parse_args = parse_and_leave  # type: ignore[assignment,method-assign]
    names["main"]()
    sys.exit(f"{words[0]} read no arguments.")


if __name__ == "__main__":
    main()
