"""One way of training one network, in a process of its own: `race.py` starts it and tells it when to run.

    python benchmarks/worker.py '{"way": "fit", "network": "MLP", "changes": {}, "settings": {}}'

It answers with lines of JSON: first `ready`, with the number of parameters, or `error`; then, for each number
of steps that it reads, the seconds and images of that run and the highest memory so far.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from recipes import recipe


def prepare(task: dict[str, Any]) -> tuple[Any, int]:
    """The function that trains so many steps, and the network's number of parameters."""
    wanted = recipe(task["network"], **task.get("changes", {}))
    if task["way"] == "keras":
        import keras_way

        return keras_way.prepare(wanted)
    import task as tasks

    own = tasks.Task(wanted, task.get("settings", {}))
    if task["way"] == "lightning":
        import lightning_way

        run = lightning_way.prepare(own)
    else:
        import ways

        run = ways.WAYS[task["way"]](own)
    return run, own.parameters


def peak_bytes() -> int:
    """The highest memory so far: an accelerator's where torch uses one, else what the process held."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory from before the start, too
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def main() -> int:
    """Prepare, then serve; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # A grammar of web addresses, which reading a notebook imports where it can: 3 s of each start.
    sys.modules["rfc3987_syntax"] = None

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        run, parameters = prepare(json.loads(sys.argv[1]))
        answer(ready=True, parameters=parameters)
        for line in sys.stdin:
            seconds, images = run(int(line))
            answer(seconds=seconds, images=images, peak_bytes=peak_bytes())
    except Exception as error:
        answer(error=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
