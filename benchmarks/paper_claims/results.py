"""Results on disk: one small file for each (configuration, person), written in one step, and what they add up to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from crossinit_core.files import write_atomically
from miniature.training.captions import PROMPTS, Prompt

from .plan import Job, Plan

JUDGES = 2
HEADLINE = 1
"""The judge that had no part in training the generator."""


def asking(prompts: Sequence[Prompt]) -> list[int]:
    """Which prompts ask for something; "a photo of a {} person" does not."""
    return [i for i, prompt in enumerate(prompts) if prompt.asks]


def expressions(prompts: Sequence[Prompt]) -> list[int]:
    """Which prompts ask for an expression alone."""
    return [i for i, prompt in enumerate(prompts) if set(prompt.asks) == {"expression"}]


ASKING, EXPRESSIONS = asking(PROMPTS), expressions(PROMPTS)

JUDGED = ("likeness", "others", "rank", "editability", "expressions", "no_portrait")
DRIFTED = ("start_norm", "norm", "norm_ratio", "angle", "distance", "seconds", "steps")

Summary = dict[str, Any]
SUMMARIZED = {"plan", "sessions", "alone", "judges", "configs", "devices", "reference"}
"""What a summary has."""


def write_json(path: Path, content: Any) -> None:
    """Write a small file in one step."""
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, text.encode())


def read_json(path: Path, default: Any = None) -> Any:
    """A file's content, or `default` if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


class Results:
    """The folder of a measurement: `plan.json`, `sessions/*.json`, and RESULT/PERSON.json for every result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, config: str, identity: int) -> Path:
        return self.folder / "results" / config / f"{identity:04d}.json"

    def missing(self, job: Job) -> tuple[str, ...]:
        """What of a job is still to be done."""
        return tuple(config for config in job.configs if not self.path(config, job.identity).is_file())

    def bind(self, plan: Plan, weights: str, free: Sequence[str] = ()) -> None:
        """Note what is measured in this folder, or make sure that it is the same as before.

        Raises ValueError if the folder holds results of other settings or weights. The number of people may change, and what
        is `free` of the plan.
        """
        own = json.loads(json.dumps({**asdict(plan), "weights": weights}))
        before = read_json(self.folder / "plan.json", own)
        for name, value in own.items():
            if name not in ("identities", *free) and before.get(name) != value:
                raise ValueError(
                    f"'{self.folder}' holds results for {name} = {before.get(name)}, but now it is {value}. "
                    "Choose another folder with --out, or delete this one."
                )
        write_json(self.folder / "plan.json", own)

    def plan(self) -> dict[str, Any]:
        """The fields of the plan that was bound last, lists as tuples; empty if none was."""
        found = read_json(self.folder / "plan.json", {})
        found.pop("weights", None)
        return _fields(found)

    def weights(self) -> str | None:
        """The fingerprint of the model and the judges that the results are of, if any are bound."""
        found: str | None = read_json(self.folder / "plan.json", {}).get("weights")
        return found

    def write_session(self, name: str, session: Mapping[str, Any]) -> None:
        """What is known by now of a session of measuring."""
        write_json(self.folder / "sessions" / f"{name}.json", session)

    def sessions(self) -> list[Any]:
        """All sessions, in the order of their names."""
        return [read_json(path) for path in sorted((self.folder / "sessions").glob("*.json"))]


def summarize(results: Results, plan: Plan) -> Summary:
    """Everything that the document needs, small enough to commit: numbers for each person, rounded to 5 digits.

    `configs[NAME]` has `identities`, the quantities of `DRIFTED`, and for each judge those of `JUDGED`, as lists in the
    order of `identities`; `reference` likewise has `likeness`, `editability`, ... of repainted pictures, and `floor`; `named`, if
    it was measured, those of people whom the model knows by name.
    `devices` counts the learned results of each device, the commonest first; seconds of any other are left out (None).
    """
    names = [
        "reference",
        *(["named"] if plan.named else []),
        *dict.fromkeys(config for job in _learning(plan) for config in job),
    ]
    summary: Summary = {
        "plan": asdict(plan),
        "sessions": results.sessions(),
        "alone": read_json(results.folder / "alone.json"),
        "judges": read_json(results.path("judges", 0)),
        "configs": {},
    }
    numbers = {name: plan.named if name == "named" else plan.people for name in names}
    found = {name: [(i, read_json(results.path(name, i))) for i in numbers[name]] for name in names}
    known = {name: {i: result for i, result in each if result is not None} for name, each in found.items()}
    devices = Counter(result["device"] for each in known.values() for result in each.values() if "device" in result)
    summary["devices"] = dict(devices.most_common())
    for name, each in known.items():
        if each:
            device = next(iter(summary["devices"]), None)
            summary["configs"][name] = _columns(plan, list(each), list(each.values()), device)
    summary["reference"] = summary["configs"].pop("reference", None)
    if plan.named:
        summary["named"] = summary["configs"].pop("named", None)
    return summary


def plan_of(summary: Summary) -> Plan:
    """The plan that a summary is of."""
    return Plan(**_fields(summary["plan"]))


def read_summary(path: Path) -> Summary:
    """What `write_summary` wrote. Raises ValueError if there is no such file, or it holds something else."""
    if not path.is_file():
        raise ValueError(f"There is no '{path}' to write the page from.")
    try:
        summary: Summary = read_json(path)
        plan_of(summary)
        lacking = SUMMARIZED - set(summary)
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' does not hold the numbers of this benchmark.") from error
    if lacking:
        raise ValueError(f"'{path}' lacks {', '.join(sorted(lacking))} of the numbers of this benchmark.")
    return summary


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON with one configuration a line."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in summary.items() if key != "configs"]
    configs = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in summary["configs"].items()]
    text = "{\n" + ",\n".join([*lines, '"configs": {\n' + ",\n".join(configs) + "\n}"]) + "\n}\n"
    write_atomically(path, text.encode())


def _fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a plan as they were before JSON."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _learning(plan: Plan) -> list[list[str]]:
    return [[run.config(steps) for steps in run.marks] for run in plan.runs()]


def _columns(
    plan: Plan, people: Sequence[int], results: Sequence[Mapping[str, Any]], device: str | None
) -> dict[str, Any]:
    columns: dict[str, Any] = {"identities": list(people)}
    for name in DRIFTED:
        if name in results[0]:
            columns[name] = [None if r[name] is None else _short(np.mean(r[name])) for r in results]
    if "seconds" in columns:
        pairs = zip(columns["seconds"], results, strict=True)
        columns["seconds"] = [seconds if result.get("device") == device else None for seconds, result in pairs]
    columns["judges"] = [
        {name: [_number(plan, name, r["judges"][j]) for r in results] for name in _judged(plan, results[0])}
        for j in range(JUDGES)
    ]
    return columns


def _judged(plan: Plan, result: Mapping[str, Any]) -> list[str]:
    names = [name for name in JUDGED if name != "expressions" or expressions(plan.prompts)]
    return [*names, *(["floor"] if "floor" in result["judges"][0] else [])]


def _number(plan: Plan, name: str, judged: Mapping[str, Sequence[float]]) -> float:
    """One number of one person: a mean over the prompts that it is about."""
    if name == "editability":
        return _short(np.mean([judged["shown"][i] for i in asking(plan.prompts)]))
    if name == "expressions":
        return _short(np.mean([judged["shown"][i] for i in expressions(plan.prompts)]))
    return _short(np.mean(judged[name]))


def _short(value: Any) -> float:
    return float(f"{float(value):.5g}")
