"""The committed schema is the one that the package writes by."""

import json
import pathlib

from ddefense import records

_COMMITTED = pathlib.Path(__file__).parents[3] / "docs" / "results.schema.json"


def test_committed_schema_is_in_step() -> None:
    assert json.loads(_COMMITTED.read_text()) == records.schema(), (
        "Write json.dumps(records.schema(), indent=1) to docs/results.schema.json, raise "
        "SCHEMA_VERSION if a field was removed or changed its meaning, and say so in the changes."
    )
