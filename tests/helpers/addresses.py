"""A folder of this disk under the scheme disk://, for what writes to a path of etils.

Orbax takes it for a disk; `bucket` has a store that it takes for one.
"""

import os
from pathlib import PosixPath

SCHEME = "disk://"


class DiskPath(PosixPath):
    """A path of this disk that is made from an address."""

    def __new__(cls, *parts):
        return super().__new__(PosixPath, *(os.fspath(part).replace(SCHEME, "") for part in parts))
