"""Imported by the script beside it."""

import json
import os
import sys


def surroundings(name, file):
    """What a script can see of how it was started."""
    return json.dumps(
        {
            "name": name,
            "file": file,
            "arguments": sys.argv[1:],
            "script": os.path.abspath(sys.argv[0]),
            "folder": os.getcwd(),
            "path": sys.path[0],
            "own": os.environ.get("TEST_OWN"),
        }
    )
