"""What the course's notebooks share; README.md and ARCHITECTURE.md say what each module is for."""

import io
import sys

# A pipe or an old terminal may lack a sign such as "·" or "±". It shows "?" then, and no run ends for that.
for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper) and _stream.errors == "strict":
        _stream.reconfigure(errors="replace")
