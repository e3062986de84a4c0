"""``import aioioth`` leaves alone what takes long and may never be needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

# Looked at one by one: each takes as long as aioioth itself, or longer.
EXPENSIVE = [
    "pyroute2",
    "importlib.metadata",
    "email",
    "zipfile",
    "multiprocessing",
    "uvloop",
    "anyio",
    "trio",
    "dns",
    "json",
    "aioioth_transports",
]

PROGRAM = """
import json, sys
before = set(sys.modules)
import aioioth
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported() -> set[str]:
    # Without site-packages' own start-up files, which import things for themselves.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(json.loads(answer.stdout))


def test_import_aioioth() -> None:
    modules = imported()
    assert "aioioth.stack" in modules
    assert [name for name in EXPENSIVE if name in modules] == []
    assert "aioioth.netlink" not in modules
