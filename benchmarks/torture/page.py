"""The tables of what was tried, and docs/reliability.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import ROOT

KEPT = ROOT / "docs" / "measurements" / "reliability"
PARTS = ("kill", "together", "places", "repeats", "server", "server-kill", "bombs", "fuzz", "fuzz-again")
"""`fuzz-again` is what had failed in `fuzz`, tried again with another seed after it was mended."""

PROMISES = """\
## Nothing learned is lost

- **A run that was cancelled, killed or ran out of memory goes on.** The next run with the same inputs starts at the last step
  that was written, and ends with the same bits as a run that was never stopped. Cancel and errors write the last complete
  step. Against `kill -9` and power cuts a step is written every 20 steps, and every 10 seconds where steps are slow.
- **A file is written whole or not at all.** It gets its name after its last byte is on the disk. Two programs may use one
  folder at the same time: the one that writes last wins, and neither reads half a file.
- **The folder is tried before the first step.** If it cannot be written, one sentence says so, and learning goes on. So it
  does if the disk becomes full or the folder vanishes on the way.
- **A resume file goes by its own age, never because of other runs.** If nobody has used it for 30 days it is put aside as
  `.expired`, where its run still finds it, and after 30 more days it is deleted. So a clock that was wrong throws nothing
  away. The file of a finished run stays as long, so the same inputs are answered at once. Half-written files that a crash
  left are deleted after an hour.
- **An update of the pack keeps what was begun.** Only a change of the arithmetic itself starts runs anew.
- **A token that was learned is saved somewhere.** The place is tried when a graph is queued, and before the command line loads a
  model. If it is lost meanwhile, the token is kept elsewhere and the message says where. Whatever else lies in the folder, of
  any program and in any state, stops no save; of two programs that save one name at once both keep their person.

Not promised: steps after the last one that was written, if the process is killed. A shorter run never continues a longer one.

## No file is believed

- **A resume file carries a checksum over every byte, its header included.** Files of version 0.1.0 have none: each of their
  values must be one that the run can have. Whatever is wrong is said in one sentence, the file is renamed to `.damaged`, and
  the run starts anew.
- **Sizes are checked before anything is unpacked**, of token files, resume files, photos, lists of names and prompts. What
  cannot be used gives one line of at most 600 characters that names the file, within a second and 200 MB.
- **Pickles run nothing.** They are read by a walk over the operations that token files need; any other is refused by name.

## Nobody gets into the page, and nobody is missing from the picture

- **What is shown is no markup**, wherever it comes from: a file, a name, a wire. `tests/test_page_safety.py` opens real pages in
  Chromium, old and new, with classic nodes and Nodes 2.0. Lines and notes go to the client whose run it is alone.
- **A person is in the prompt, or it is said.** A prompt without a place, a place that names nobody, a name that means two people
  and a place that a tokenizer drops are errors; a connected person whom no place names is said on the node, or on the command
  line. `tests/test_prompts.py`, `tests/test_fuzz_text.py` and `tests/test_prompt_chunks.py` hold that.
- **ComfyUI is as it was.** A picture made before learning and again after it has the same bits, no memory is kept, and no global
  setting changes: `tests/test_live.py`, and `tests/gpu` in ten modes.
"""

HOW = """\
The short versions run with the tests: `tests/test_torture.py`, `tests/test_resume.py`, `tests/test_resume_files.py`,
`tests/test_resume_damage.py` and `tests/test_bad_token_files.py`. To repeat these:

```
python3 run.py bench torture -- --out build/torture                    # all but a long fuzzing: an hour on two cores
python3 run.py bench torture -- --part fuzz --seconds 3600 --out build/torture
```

Then copy the JSON files to `docs/measurements/reliability` and write this page with `--page`. Learning is that of the shipped
miniature at 64 px on a CPU, 12 steps; each try is a process of its own, forked from one that has the model in memory. Fuzzing
counts CPU time, and memory above what the process had; each process may take 2 GiB more than it has at its start. A seed gives
the same inputs again, and inputs that failed are kept in `failed/`."""


def read(kept: Path) -> list[dict[str, Any]]:
    """The records of all parts that are there, each with where it was made and what was remarked on it by hand."""
    found = []
    for part in PARTS:
        path = kept / f"{part}.json"
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            found += [
                {**record, "where": content["where"], "remark": content.get("remark", "")}
                for record in content["records"]
            ]
    return found


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: each record with its tries and failures."""
    lines = ["| what | tries | failures |", "| --- | --- | --- |"]
    lines += [f"| {record['part']} | {record['tries']:,} | {record['failures']:,} |" for record in records]
    return "\n".join(lines)


def page(kept: Path) -> str:
    """docs/reliability.md."""
    records = read(kept)
    wheres = [record["where"] for record in records]
    machines = sorted({f"{where['system']}, Python {where['python']}, torch {where['torch']}" for where in wheres})
    parts = [
        "# Reliability",
        "What is promised, how it is tested, and how many tries there were. Written by `benchmarks/torture` from "
        "`docs/measurements/reliability`; do not edit by hand.",
        PROMISES.rstrip(),
        "## How it was tried",
        _long_table(records),
        f"Measured on: {'; '.join(machines)}." if machines else "",
        *_failures(records),
        HOW,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _long_table(records: list[dict[str, Any]]) -> str:
    lines = ["| what | right is | tries | failures | minutes | |", "| --- | --- | --- | --- | --- | --- |"]
    for record in records:
        facts = "; ".join(f"{key}: {_said(value)}" for key, value in record["facts"].items())
        cells = [
            record["part"],
            record["what"],
            f"{record['tries']:,}",
            f"{record['failures']:,}",
            f"{record['seconds'] / 60:.1f}",
            facts,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{inner} ({count})" for inner, count in value.items())
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _failures(records: list[dict[str, Any]]) -> list[str]:
    lines = [f"- {record['part']}: {problem}" for record in records for problem in record["failed"][:5]]
    cleaned = ["".join(c if c.isprintable() else "?" for c in line).replace("<", "&lt;") for line in lines]
    remarks = list(dict.fromkeys(record["remark"] for record in records if record["remark"]))
    return ["Failures, the first of each kind:", "\n".join(cleaned), *remarks] if lines else []
