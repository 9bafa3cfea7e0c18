"""Several ways of training take turns, each in a process of its own.

A process each, because the allocator's setting, TensorFlow's threads and the peak of memory belong to the
whole process. All are started at once, warm up one after another, and then run in turn, so that a slow minute
of the machine hits all of them alike.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
RIVALS = PROJECT / ".venv-bench"
LOG = PROJECT / "_build" / "bench" / "workers.log"
MIN_STEPS = 5  # of a timing: the first step after the others' turns is slower
IN_RIVALS = ("keras", "lightning")  # ways that need the extra `bench`
Task = dict[str, Any]


class Missing(RuntimeError):
    """A way can't run here; the message says why."""


def interpreter(way: str) -> str:
    """The Python that runs a way.

    Raises:
        Missing: the environment of the rivals is not there.
    """
    if way not in IN_RIVALS:
        return sys.executable
    python = RIVALS / "bin" / "python"
    if not python.exists():
        raise Missing(f"no {RIVALS.name}: make bench sets it up")
    return str(python)


class Worker:
    """A process that trains in one way when told so."""

    def __init__(self, task: Task) -> None:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        command = [interpreter(task["way"]), str(PROJECT / "benchmarks" / "worker.py"), json.dumps(task)]
        with LOG.open("a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=PROJECT
            )
        self.peak_bytes = self.parameters = 0

    def answer(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            Missing: the process says that it can't, or has ended.
        """
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"it ended; see {LOG.relative_to(PROJECT)}"}
        if "error" in answer:
            raise Missing(answer["error"].replace(str(PROJECT), "…"))
        return answer

    def ready(self) -> None:
        """Wait until it is prepared."""
        self.parameters = self.answer()["parameters"]

    def run(self, steps: int) -> tuple[float, int]:
        """Train so many steps; seconds and images."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.peak_bytes = answer["peak_bytes"]
        return answer["seconds"], answer["images"]

    def warm_up(self, seconds: float) -> int:
        """Run until the speed is known; the number of steps that take so many seconds, or MIN_STEPS."""
        self.run(1)
        steps, taken = 1, self.run(1)[0]
        while taken < seconds / 4:
            steps *= min(8, max(2, math.ceil(seconds / 3 / max(taken, 1e-6))))
            taken = self.run(steps)[0]
        return max(MIN_STEPS, round(steps * seconds / taken))

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def race(
    tasks: dict[str, Task], *, repeats: int, seconds: float, start: Callable[[Task], Any] = Worker
) -> dict[str, dict[str, Any]]:
    """Let tasks take turns.

    Args:
        tasks: by label.
        repeats: runs of each; warming up is not counted.
        seconds: about how long a run is.
        start: starts a task's process.

    Returns:
        By label, `runs` (images a second), `median`, `steps` a run and `peak_bytes`; or `missing`, the reason
        why there is nothing.

    Raises:
        ValueError: two ways train networks of different sizes.
    """
    results, workers, steps = {}, {}, {}

    def attempt(label: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (Missing, OSError) as error:
            results[label] = {"missing": str(error)}
            if label in workers:
                workers.pop(label).stop()

    try:
        for label, task in tasks.items():
            worker = attempt(label, lambda task=task: start(task))
            if worker:
                workers[label] = worker
        for label in list(workers):
            attempt(label, workers[label].ready)
        sizes = {worker.parameters for worker in workers.values() if worker.parameters}
        if len(sizes) > 1:
            raise ValueError(f"the networks of {', '.join(tasks)} differ in size: {sizes}")
        for label in list(workers):
            steps[label] = attempt(label, lambda label=label: workers[label].warm_up(seconds))
        speeds = {label: [] for label in workers}
        for _ in range(repeats):
            for label in list(workers):
                timing = attempt(label, lambda label=label: workers[label].run(steps[label]))
                if timing:
                    speeds[label].append(timing[1] / timing[0])
        for label, worker in workers.items():
            results[label] = summary(speeds[label]) | {
                "steps": steps[label],
                "peak_bytes": worker.peak_bytes,
            }
    finally:
        for worker in workers.values():
            worker.stop()
    return {label: results[label] for label in tasks}


def summary(speeds: Iterable[float]) -> dict[str, Any]:
    """The runs and their median, to four digits."""
    runs = [float(f"{speed:.4g}") for speed in speeds]
    return {"median": statistics.median(runs), "runs": runs}


def ratio(above: dict[str, Any], below: dict[str, Any]) -> float | None:
    """The median over rounds of one way's speed by another's; None where one of them is missing."""
    if "runs" not in above or "runs" not in below:
        return None
    return statistics.median(a / b for a, b in zip(above["runs"], below["runs"], strict=True))
