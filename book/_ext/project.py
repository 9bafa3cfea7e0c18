"""Puts the project on Python's path, so that the other extensions can import `helpers`.

The book may be built by a command that lies elsewhere, and from a copy of its sources (`make run`). Both have
the project's folder above this file.
"""

import sys
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "helpers").is_dir())
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
