"""`bin/query` refuses what it cannot ask in a few lines, before anything is loaded or sent."""

import json
import os
import sys
from pathlib import Path

import pytest

USAGE = 2
IMAGES = "--images=one.png,two.jpg"
MODEL = "--model=digits_distilled_t100"
DIGITS = "--dataset=digits"

COMMAND, MODULE = "bin/query", "ddefense.cli.query"
MISSING = ("tensorflow", "keras", "grpc", "requests", "sklearn")

# What the flags ask for.
PARSE = """
import dataclasses, json, sys
from absl import flags
from ddefense.cli import query, query_flags

query_flags.define()
found = []
for arguments in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    assert flags.FLAGS(["bin/query", *arguments])[1:] == []
    found.append(dataclasses.asdict(query._configure()))
print(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run, with two files to send and a directory."""
    folder = tmp_path_factory.mktemp("cli") / "cwd"
    (folder / "models").mkdir(parents=True)
    for name in ("one.png", "two.jpg"):
        (folder / name).write_bytes(b"for the server to judge")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["--images: expected either", "--dataset", "neither"]),
        ([MODEL, "--images="], ["--images: expected either", "neither"]),
        ([MODEL, IMAGES, DIGITS], ["--images: expected either", "received both"]),
        ([MODEL, "--images=one.png,missing.png"], ["--images", "'missing.png', no file"]),
        ([MODEL, "--images=/dev/null"], ["--images", "'/dev/null', a device"]),
        ([MODEL, "--images=models"], ["--images", "'models', no file"]),
        ([MODEL, "--dataset=letters"], ["--dataset=letters", "digits", "mnist"]),
        ([IMAGES], ["--model: expected the name", "--saved_model", "received none"]),
        ([IMAGES, "--model="], ["--model: expected the name", "received none"]),
        ([MODEL, IMAGES, "--protocol=http"], ["--protocol=http", "grpc|rest"]),
        ([MODEL, IMAGES, "--server=localhost"], ["--server: expected host:port", "'localhost'"]),
        ([MODEL, IMAGES, "--server=:8500"], ["--server: expected host:port", "':8500'"]),
        ([MODEL, IMAGES, "--server=host:http"], ["--server: expected host:port", "'host:http'"]),
        ([MODEL, IMAGES, "--server=host:65536"], ["--server: expected host:port", ":65536'"]),
        (
            [MODEL, IMAGES, "--server=http://host:8501", "--protocol=rest"],
            ["--server: expected host:port, such as localhost:8501", "'http://host:8501'"],
        ),
        ([MODEL, IMAGES, "--version=-1"], ["--version=-1"]),
        ([MODEL, IMAGES, "--version=new"], ["--version=new"]),
        ([MODEL, IMAGES, "--timeout=0"], ["--timeout", "> 0", "0.0"]),
        ([MODEL, IMAGES, "--timeout=nan"], ["--timeout", "finite", "nan"]),
        ([MODEL, IMAGES, "--timeout=inf"], ["--timeout", "finite", "inf"]),
        ([MODEL, IMAGES, "--top=0"], ["--top=0"]),
        ([MODEL, DIGITS, "--samples=0"], ["--samples=0"]),
        ([MODEL, IMAGES, "--signature=predict"], ["--signature=predict", "serving_labels"]),
        (
            [MODEL, IMAGES, "--signature=serving_uint8"],
            ["--signature", "--images gives, serving_encoded or serving_labels", "'serving_uint8'"],
        ),
        (
            [MODEL, DIGITS, "--signature=serving_labels"],
            ["--signature", "--dataset gives, serving_default or serving_uint8 or logits;"],
        ),
        ([IMAGES, "--saved_model=missing"], ["--saved_model", "'missing', which is none"]),
        ([IMAGES, "--saved_model=one.png"], ["--saved_model", "'one.png', which is none"]),
        ([MODEL, IMAGES, "--saved_model=models"], ["--saved_model", "without --model", "both"]),
        (
            [IMAGES, "--saved_model=models", "--server=localhost:8500"],
            ["--saved_model", "without --server", "both"],
        ),
        ([MODEL, "one.png"], ["flags only", "one.png"]),
        ([MODEL, IMAGES, "--network=mine.keras"], ["network"]),
    ],
    ids=lambda value: "_".join(value) if value and value[0].startswith("--") else "",
)
def test_a_mistaken_command_is_refused_with_its_usage(cli, arguments, named):
    found = cli(*arguments)
    assert found.returncode == USAGE
    assert found.stdout == ""
    for part in named:
        assert part in found.stderr
    lines = found.stderr.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("Usage: bin/query [flags]")


def test_an_empty_directory_is_no_exported_model(cli, folder):
    found = cli(IMAGES, "--saved_model=models")
    assert found.returncode == 1
    (line,) = found.stderr.splitlines()
    assert line.startswith("Expected models to be an exported model, a directory with a version")


def test_help_lists_the_flags_and_needs_no_tensorflow(run_python, folder):
    found = run_python("-X", "importtime", "-m", "ddefense.cli.query", "--help", cwd=folder)
    for field in (
        *("images", "dataset", "samples", "model", "version", "server", "protocol", "json"),
        *("saved_model", "signature", "timeout", "top", "data_dir"),
    ):
        assert f"--{field}" in found.stdout.replace("[no]", "")
    imported = {line.split("|")[-1].strip() for line in found.stderr.splitlines()}
    assert "ddefense.cli.query_flags" in imported  # or the next line would say nothing
    assert not imported & {"tensorflow", "keras", "grpc", "requests", "sklearn"}


def test_what_no_flag_says_follows_from_what_is_sent(run_python, folder):
    commands = [
        [MODEL, IMAGES],
        [MODEL, DIGITS, "--protocol=rest"],
        [MODEL, IMAGES, "--server=[::1]:9000", "--signature=serving_encoded"],
        [MODEL, DIGITS, "--signature=logits"],
        [IMAGES, "--saved_model=models"],
    ]
    found = run_python("-c", PARSE, json.dumps(commands), cwd=folder)
    assert found.returncode == 0, found.stderr
    files, rest, elsewhere, logits, local = json.loads(found.stdout)
    assert files["images"] == ["one.png", "two.jpg"]
    assert (files["server"], files["signature"]) == ("localhost:8500", "serving_labels")
    assert (rest["server"], rest["signature"]) == ("localhost:8501", "serving_default")
    assert (rest["images"], rest["dataset"]) == ([], "digits")
    assert (elsewhere["server"], elsewhere["signature"]) == ("[::1]:9000", "serving_encoded")
    assert logits["signature"] == "logits"
    assert (local["server"], local["saved_model"], local["model"]) == (None, "models", "")
    assert {found["model"] for found in (files, rest)} == {"digits_distilled_t100"}


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_script_runs_this_module():
    script = Path(__file__).resolve().parents[3] / "bin" / "query"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith('exec "$python" -P -m ddefense.cli.query "$@"')
