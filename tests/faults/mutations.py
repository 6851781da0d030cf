"""Breaks the service on purpose, in a copy, one way at a time: the tests have to notice each (`make mutations`).

    python -m tests.faults.mutations [WORD…]    only the mutations whose names hold one of the words

Prints a line for each: red is good. Ends with 1 where a mutation stayed green, or where the tests are red without one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ["service", "tests", "schemas", "pyproject.toml"]
TESTS = [
    "tests/faults/test_twin.py",
    "tests/test_exactly_once.py",
    "tests/test_slots.py",
    "tests/test_disk.py",
    "tests/test_step_failures.py",
    "tests/test_quarantine.py",
    "tests/test_unknown_outcomes.py",
    "tests/test_rebuild.py",
    "tests/test_restore.py",
]


@dataclass(frozen=True, slots=True)
class Mutation:
    """In `file`, `old`, which stands there once, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "position() for offsets",
        "service/assignment.py",
        "return {number: task.next_offset for number, task in self.tasks.items() if task.live}",
        "return {number: self.source.position(task.input) for number, task in self.tasks.items() if task.live}",
    ),
    Mutation(
        "publishing in replay",
        "service/assignment.py",
        "cut = 0 if task.live else bisect_left(part.offsets, task.live_at)",
        "cut = 0",
    ),
    Mutation(
        "an offset that goes back",
        "service/assignment.py",
        "task.next_offset = max(task.next_offset, part.offsets[-1] + 1)",
        "task.next_offset = part.offsets[-1] + 1",
    ),
    Mutation(
        "state surviving an abort",
        "service/commits.py",
        "        self._streams.rollback()\n",
        "        self._streams.settle()\n",
    ),
    Mutation(
        "rings surviving an abort",
        "service/streaming/program.py",
        "        state.fall_behind(checkpoint.slots)\n",
        "",
    ),
    Mutation(
        "rings as they were before a replay",
        "service/streaming/program.py",
        "        state.fall_behind(slots)\n        self._advance(",
        "        self._advance(",
    ),
    Mutation(
        "stale membership",
        "service/commits.py",
        "self.epoch.send(offsets, self._assignment.source.group())",
        "self._token = getattr(self, '_token', None) or self._assignment.source.group()\n"
        "        self.epoch.send(offsets, self._token)",
    ),
    Mutation(
        "stale metadata",
        "service/commits.py",
        "            start = starts[number] = self._streams.replay_from(number, offset, chosen)\n",
        "            start = starts[number] = self._streams.replay_from(number, offset, chosen)\n"
        "            self._stale = getattr(self, '_stale', {})\n"
        "            start, self._stale[number] = self._stale.get(number, start), start\n",
    ),
    Mutation(
        "a snapshot outside the transaction",
        "service/epoch.py",
        "self.sink.produce(self.topics.snapshots, data, key=key, partition=task)",
        "getattr(self.sink, 'inner', self.sink)._log.append(self.topics.snapshots, data, key, task, [])",
    ),
    Mutation(
        "replay_from one too high",
        "service/state/dirty.py",
        "return min(int(since.min()), next_offset) if len(since) else next_offset",
        "return min(int(since.min()) + 1, next_offset) if len(since) else next_offset",
    ),
    Mutation(
        "replay feeds what a snapshot contains",
        "service/scheduler.py",
        "if batch.offsets[row] >= begun.get(key, 0)]",
        "]",
    ),
    Mutation(
        "snapshots read to the last stable offset only",
        "service/restore.py",
        "    low, high = reader.watermarks(partition, policy.timeout)\n    streams.assign(",
        "    low, high = reader.watermarks(partition, policy.timeout)\n"
        "    high = reader._reader._log.partition(partition).last_stable\n    streams.assign(",
    ),
    Mutation(
        "an ended slot is given away before the commit",
        "service/state/streams.py",
        "        if live:\n            self._undo.ended += slots.tolist()\n"
        "        else:\n            self.table.vacate(slots.tolist())",
        "        self.table.vacate(slots.tolist())",
    ),
    Mutation(
        "no two commits alike, but for their count",
        "service/commits.py",
        "        self._count += 1\n",
        "",
    ),
    Mutation(
        "a dirty stream goes to disk as if committed",
        "service/state/streams.py",
        "Frozen(data[place].to_bytes(), None if clean[place] else rows[place])",
        "Frozen(data[place].to_bytes())",
    ),
    Mutation(
        "a clean stream is not frozen, although nobody else has it",
        "service/state/streams.py",
        "frozen = np.flatnonzero(~clean | (not self.cold.disk.complete))",
        "frozen = np.flatnonzero(~clean)",
    ),
    Mutation(
        "memory that dirty streams fill owes no commit",
        "service/state/cold.py",
        "return self.dirty_bytes > self.limit",
        "return False",
    ),
    Mutation(
        "an ended stream is found on the disk until its end is committed",
        "service/state/cold.py",
        "        self._gone[task].add(key)\n",
        "        pass\n",
    ),
    Mutation(
        "what an abort ended stays hidden on the disk",
        "service/state/cold.py",
        "        self._gone[task].discard(key)\n",
        "        pass\n",
    ),
    Mutation(
        "a disk's mark beyond what it holds",
        "service/landmarks.py",
        "Mark(end, True, offset, self._wall(), tuple(self._streams.rates))",
        "Mark(end + 2, True, offset, self._wall(), tuple(self._streams.rates))",
    ),
    Mutation(
        "a disk does not follow the commits",
        "service/state/cold.py",
        "                self.disk.follow(task, items)\n                self._gone",
        "                self._gone",
    ),
    Mutation(
        "a mark that nobody has proven",
        "service/landmarks.py",
        "            self._seen.pop(task, None)\n",
        "            pass\n",
    ),
    Mutation(
        "letters of a replay are published",
        "service/worker.py",
        "            size = sum(map(len, part))\n",
        "            size = sum(map(len, part))\n"
        "            for letter in self._feeder.decode(part, self._assignment.refused()).letters:\n"
        "                self.commits.join([])\n"
        "                self.commits.epoch.dead_letter(letter.records, letter.row, letter.refusal)\n",
    ),
    Mutation(
        "a failed replay goes on with what is half done",
        "service/worker.py",
        "                self._recover(tasks)\n                return\n",
        "                continue\n",
    ),
    Mutation(
        "a gap is passed while records wait",
        "service/worker.py",
        "            if not self._intake.waiting:\n                self._assignment.pass_gaps()\n",
        "            self._assignment.pass_gaps()\n",
    ),
    Mutation(
        "a refusal for a failed step is not written down",
        "service/refused.py",
        "fresh = [at for at in self.records if replay_from <= at < next_offset and at not in self.written]",
        "fresh: list[int] = []",
    ),
    Mutation(
        "an attempt in quarantine is not written down",
        "service/quarantine.py",
        "        self._write(task, _ATTEMPT_KEY, offset, before + 1)\n        return None\n",
        "        return None\n",
    ),
    Mutation(
        "what is in quarantine is decoded with the others",
        "service/intake.py",
        "self._feeder.decode(self._assignment.in_quarantine(records)[1], self._assignment.refused())",
        "self._feeder.decode(records, self._assignment.refused())",
    ),
    Mutation(
        "a damaged snapshot is not replaced with the first commit",
        "service/commits.py",
        "closing = {*closing, *rebuilt}",
        "closing = {*closing}",
    ),
    Mutation(
        "a rebuilt key is fed what was refused",
        "service/rebuild.py",
        "if reason in _BY_THEIR_DEEDS:",
        "if False:",
    ),
]


def main(words: list[str]) -> int:
    wanted = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    failed = _line("none", *_tested(None), good="green")
    for mutation in wanted:
        failed |= _line(mutation.name, *_tested(mutation), good="red")
    return int(failed)


def _line(name: str, colour: str, first: str, seconds: float, good: str) -> bool:
    print(f"{'ok' if colour == good else 'WRONG':6} {name:48} {colour:6} {seconds:5.1f} s  {first}", flush=True)
    return colour != good


def _tested(mutation: Mutation | None) -> tuple[str, str, float]:
    """Red or green, the first test that failed, and the seconds it took."""
    with tempfile.TemporaryDirectory(prefix="penstock-mutation-") as folder:
        tree = Path(folder)
        for name in COPIED:
            place = ROOT / name
            if place.is_dir():
                shutil.copytree(place, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(place, tree / name)
        if mutation is not None:
            path = tree / mutation.file
            text = path.read_text()
            if text.count(mutation.old) != 1:
                sys.exit(f"{mutation.name}: the text to be changed stands {text.count(mutation.old)} times in {mutation.file}")
            path.write_text(text.replace(mutation.old, mutation.new))
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-x", "--hypothesis-profile", "unshrunk", "-p", "no:cacheprovider", *TESTS]
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode not in (0, 1):
            sys.exit(f"pytest could not run ({done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        names = re.findall(r"^FAILED \S*?/(\S+\.py::.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
        return "red" if done.returncode else "green", names[0] if names else "", time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
