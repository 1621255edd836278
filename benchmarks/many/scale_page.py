"""Puts what was measured into docs/scale.md, between the marks of each table.

    python -m benchmarks.many.scale_page

Reads docs/measurements/scale/*.json, which throughput, kills and simulation of this folder write (`--out docs/measurements/scale`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..inversion_speed import ROOT

PAGE = ROOT / "docs" / "scale.md"
MEASURED = ROOT / "docs" / "measurements" / "scale"
PEOPLE = 10_000
PRICES = (2.5, 7.0)
"""Dollars an hour for an H200 on demand, the lowest and the highest in price lists of 2026."""


def main() -> int:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def filled(text: str) -> str:
    """The page with its tables written anew."""
    for name, make in TABLES.items():
        mark = re.compile(rf"<!-- {name} -->\n.*?<!-- end -->", re.DOTALL)
        if not mark.search(text):
            raise ValueError(f"docs/scale.md has no place for the table '{name}'.")
        before, after = mark.split(text)[0], mark.split(text)[-1]
        text = f"{before}<!-- {name} -->\n{make()}\n<!-- end -->{after}"
    return text


def measured(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(MEASURED.glob(pattern))]


def throughput() -> str:
    [data] = measured("many-people.json")
    first = data["numbers"][0]
    rows = [
        (
            row["gpus"],
            row["people_per_gpu"],
            f"{row['people_an_hour']:.0f}",
            f"{row['people_an_hour'] / first['people_an_hour']:.2f}",
            f"{sum(row['seconds_each']) / len(row['seconds_each']):.1f} s",
            "yes" if row["same_bits"] else "no",
        )
        for row in data["numbers"]
    ]
    head = ("GPUs", "people side by side on each", "people an hour", "times", "a person takes", "same bits")
    size = data["settings"]
    said = (
        f"{data['gpus']} x {data['gpu']}, torch {data['torch']}; {size['steps']} steps, batch {size['batch_size']}, "
        f"{size['resolution']} px; loading the model is not counted."
    )
    return f"{_table(head, rows)}\n\n{said}"


def price() -> str:
    [data] = measured("many-people.json")
    rate = data["numbers"][0]["people_an_hour"]
    hours = PEOPLE / rate
    low, high = (price * hours for price in PRICES)
    return (
        f"At the {rate:.0f} people an hour of one {data['gpu']}, {PEOPLE:,} people take {hours:.0f} GPU hours. An H200 on demand\n"
        f"costs {PRICES[0]:g} to {PRICES[1]:g} dollars an hour in price lists of 2026. That is {low:.0f} to {high:.0f} dollars, or "
        f"{100 * low / PEOPLE:.1f} to {100 * high / PEOPLE:.1f} cents a\nperson, without disks and traffic. On a thousand of these "
        f"GPUs a million people take {1e6 / rate / 1000:.1f} hours."
    )


def kills() -> str:
    order = {"worker": 0, "driver": 1, "node": 2}
    found = sorted(measured("kills-*.json"), key=lambda data: (data["engine"], order[data["what"]]))
    killed = {
        ("worker", "processes"): "a worker process",
        ("worker", "ray"): "a Ray actor",
        ("driver", "processes"): "the command",
        ("driver", "ray"): "the command",
        ("node", "processes"): "the command and all its workers at once",
        ("node", "ray"): "a Ray node: its raylet and all that runs on it",
    }
    rows = [
        (
            data["engine"],
            killed[data["what"], data["engine"]],
            data["kills"],
            data["while_learning"],
            data["commands"],
            f"{len(data['people_with_other_bits'])} of {data['people']}",
            data["orphans"],
        )
        for data in found
    ]
    head = (
        *("engine", "killed", "times", "while somebody was begun", "commands given"),
        *("people with other bits", "processes left behind"),
    )
    return _table(head, rows) if rows else "Not measured yet."


def simulation() -> str:
    rows = []
    for data in measured("simulation*.json"):
        course = data["first"]["course"]
        engine = "Ray" if data["ray"] else "processes"
        for row in (course[0], course[len(course) // 2], course[-1]):
            rows.append(
                (
                    engine,
                    f"{row['people']:,}",
                    row["seconds"],
                    row["megabytes"],
                    row["open_files"],
                    row["threads"],
                    row["cpu_seconds"],
                )
            )
        rows.append((engine, f"all, the same command again: {data['again']['seconds']} s", "", "", "", "", ""))
    head = (
        "engine",
        "people with a token",
        "seconds",
        "driver's memory, MB",
        "open files",
        "threads",
        "driver's CPU seconds",
    )
    return _table(head, rows) if rows else "Not measured yet."


def one_person() -> str:
    [data] = measured("one-person-on-two-gpus.json")
    names = {"sd2": "SD 2.1", "sdxl": "SDXL"}
    rows = []
    for base, family in data["families"].items():
        one, both = (family["rows"][name] for name in ("one GPU, fp16", "2 GPUs, fp16"))
        halves = next(row for name, row in family["rows"].items() if "in pieces" in name and "fp16" in name)
        rows.append(
            (
                f"{names[base]}, batch {family['batch_size']}, {family['resolution']} px",
                *(f"{row['ms_a_step']:.1f} ms, {row['peak_gib']:.1f} GiB" for row in (one, halves, both)),
                f"{one['ms_a_step'] / both['ms_a_step']:.2f}",
            )
        )
    head = ("a step in fp16", "one GPU", "one GPU, the batch in two pieces", "two GPUs, each", "times as fast")
    kinds = [
        f"{value['largest']:.1g} ({names[base]} in {precision})"
        for base, family in data["families"].items()
        for precision in ("fp16", "fp32")
        for name, value in family["differences"].items()
        if name == f"2 GPUs, {precision} and one GPU, {precision}"
    ]
    same = all(
        value["same_bits"]
        for family in data["families"].values()
        for name, value in family["differences"].items()
        if "in pieces" in name
    )
    return (
        f"{_table(head, rows)}\n\nTwo {data['gpu']}, torch {data['torch']}, NCCL {data['nccl']}; the loaded model's own "
        f"memory is counted too. After {data['steps']} steps the\nvectors {'have the same bits as' if same else 'differ from'} those of one GPU "
        f"that takes the batch in two pieces. From those of one GPU that takes it at\nonce, whose kernels add up in another order, "
        f"they differ by at most {', '.join(kinds)}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "one person": one_person,
    "throughput": throughput,
    "price": price,
    "kills": kills,
    "simulation": simulation,
}


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
