"""Numbers of an earlier page and new ones as one: a way that is added later need not wait for all others to be measured again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .plan import Stage

BOUND = ("seeds", "sampling_steps", "guidance", "examination", "stage")
"""What two measurements must share to stand in one table."""


def read_numbers(path: Path, worlds: Sequence[str]) -> dict[str, dict[Stage, dict[str, Any]]]:
    """What `write_page` wrote beside a page of these worlds. Raises ValueError if there is no such file or world."""
    try:
        found: dict[str, dict[Stage, dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
        for stages in found.values():
            for summary in stages.values():
                _ = summary["plan"]["seeds"], summary["configs"], summary["weights"]
    except OSError as error:
        raise ValueError(f"There are no numbers in '{path}' to keep: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' does not hold the numbers of this benchmark.") from error
    for name in worlds:
        if name not in found:
            raise ValueError(f"--keep has '{name}', but '{path}' has {', '.join(found)}.")
    return {name: found[name] for name in worlds}


def together(
    earlier: Mapping[str, Mapping[Stage, Mapping[str, Any]]], now: Mapping[str, Mapping[Stage, Mapping[str, Any]]]
) -> dict[str, dict[Stage, dict[str, Any]]]:
    """All worlds, stages and ways of both. Where both measured the same way and steps, those of more people stay, or the new ones.

    Raises ValueError if one world was measured in two ways, or is of other weights now.
    """
    worlds: dict[str, dict[Stage, dict[str, Any]]] = {}
    for world in (*earlier, *(name for name in now if name not in earlier)):
        before, after = earlier.get(world, {}), now.get(world, {})
        stages = (*before, *(stage for stage in after if stage not in before))
        worlds[world] = {
            stage: _one(world, before[stage], after[stage])
            if stage in before and stage in after
            else dict(before.get(stage) or after[stage])
            for stage in stages
        }
    return worlds


def check(world: str, before: Mapping[str, Any], plan: Mapping[str, Any], weights: str | None) -> None:
    """See that the numbers of one stage in a world may stand beside those that `plan` measures. Raises ValueError."""
    if before["weights"] is None or before["weights"] != weights:
        raise ValueError(
            f"The world '{world}' has other weights than when its numbers were measured that --keep would keep. "
            "Give it another name, or measure without --keep."
        )
    for name in BOUND:
        if before["plan"].get(name) != plan.get(name):
            raise ValueError(
                f"The numbers of '{world}' that --keep would keep are for {name} = {before['plan'].get(name)}, "
                f"but now it is {plan.get(name)}."
            )


def _one(world: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    check(world, before, after["plan"], after["weights"])
    # The larger count, not the sum: what is measured now may be among what the page has already.
    devices = Counter(before["devices"]) | Counter(after["devices"])
    usual = next(iter(dict(devices.most_common())), None)
    configs: dict[str, Any] = {}
    for summary in (before, after):
        same = next(iter(summary["devices"]), None) == usual
        for name, config in summary["configs"].items():
            # Seconds of another device stand for nothing here.
            each = config if same or "seconds" not in config else {**config, "seconds": [None] * len(config["seconds"])}
            configs[name] = _of_more_people(configs.get(name), each)
    people = max(before["plan"]["identities"], after["plan"]["identities"])
    steps = sorted({*before["plan"]["steps"], *after["plan"]["steps"]})
    return {
        **after,
        "plan": {**before["plan"], "identities": people, "steps": steps},
        "devices": dict(devices.most_common()),
        "reference": _of_more_people(before["reference"], after["reference"]),
        "named": _of_more_people(before.get("named"), after.get("named")),
        "configs": configs,
    }


def _of_more_people(before: Any, after: Any) -> Any:
    if before is None or after is None:
        return after or before
    return after if len(after["identities"]) >= len(before["identities"]) else before
