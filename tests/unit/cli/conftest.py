"""Runs the command line of a test module where packages that it may not need are missing.

The module names it: `COMMAND`, the program that users call; `MODULE`, what that runs; `MISSING`,
the packages; and `LOADED`, if it likes, what is imported once and not by every call.
"""

import json
import os
import subprocess

import pytest

# Runs the program in a fork for every line of arguments: starting Python takes far longer.
_SERVER = """
import importlib, json, os, sys
requests, command, module, missing, loaded = json.loads(sys.argv[1])
for name in missing:
    sys.modules[name] = None  # what needs it ends in a traceback
for name in loaded:
    importlib.import_module(name)
program = importlib.import_module(module)
for line in open(requests):
    child = os.fork()
    if not child:
        for handle, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"../{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
        variables, arguments = json.loads(line)
        os.environ.update(variables)
        sys.argv = [command, *arguments]
        program.run()
        os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, open("../out").read(), open("../err").read()]), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run."""
    folder = tmp_path_factory.mktemp("cli") / "cwd"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def cli(start_python, folder, request):
    """Runs the command with arguments and environment variables, as `subprocess.run` does."""
    pipe, asked = folder.parent / "requests", request.module
    os.mkfifo(pipe)
    named = [str(pipe), asked.COMMAND, asked.MODULE, asked.MISSING, getattr(asked, "LOADED", ())]
    with (
        start_python("-c", _SERVER, json.dumps(named), cwd=folder) as server,
        pipe.open("w") as requests,
    ):

        def run(*arguments, **variables):
            print(json.dumps([variables, arguments]), file=requests, flush=True)
            found = subprocess.CompletedProcess(arguments, *json.loads(server.stdout.readline()))
            assert "Traceback" not in found.stderr
            return found

        yield run
