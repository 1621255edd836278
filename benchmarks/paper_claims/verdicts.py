"""Which of the paper's claims hold, by criteria that are fixed here and printed with their numbers.

The claims are those of the abstract and of sections 4 and 5 of Pang et al., CVPR 2024 (arXiv 2312.15905).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .plan import Plan, Run, Start
from .statistics import Estimate, Numbers, estimate

GROWTH, STEADY = 2.0, (0.5, 2.0)
MARGIN = 0.02
HALF = 0.5

RATE_RULE = (
    "Score of a person: the harmonic mean of likeness and editability, on scales on which repainted pictures have 1 and, "
    "for likeness, a random other person has 0. Take the learning rate with the best mean score; if the 95 % interval of "
    "a smaller rate's difference to it (paired over people) includes 0, take the smallest such rate."
)


@dataclass(frozen=True)
class Verdict:
    """`holds` is None if the numbers that it takes are missing. `evidence` is sentences with numbers."""

    claim: str
    criterion: str
    holds: bool | None
    evidence: str

    @property
    def word(self) -> str:
        return {True: "holds", False: "does not hold", None: "not measured"}[self.holds]


def verdicts(numbers: Numbers, plan: Plan) -> list[Verdict]:
    """Every claim, judged by the headline judge."""
    found = (judge(numbers, plan) for judge in _CLAIMS)
    return [replace(v, evidence="The runs that it takes are missing.") if v.holds is None else v for v in found]


def fast_learning_rate(numbers: Numbers, plan: Plan) -> tuple[float | None, dict[float, Estimate]]:
    """The fast preset's learning rate by `RATE_RULE`, and every measured rate's mean score.

    None if fewer than two people were learned at every rate. Only they count: means over different people say
    nothing about rates.
    """
    scores = {run.learning_rate: numbers.score(config) for run, config in _fast_runs(plan)}
    means = {rate: estimate(np.array(list(found.values()))) for rate, found in scores.items()}
    shared = _shared(scores.values())
    if len(shared) < 2:
        return None, means
    best = max(scores, key=lambda rate: sum(scores[rate][i] for i in shared))
    for rate in sorted(scores):
        apart = estimate(np.array([scores[best][i] - scores[rate][i] for i in shared]))
        if rate == best or apart.low <= 0 <= apart.high:
            return rate, means
    return best, means


def _shared(scores: Iterable[Mapping[int, float]]) -> list[int]:
    """The people who have all of these scores."""
    return sorted(set.intersection(*map(set, scores)))


def _fast_runs(plan: Plan) -> list[tuple[Run, str]]:
    return [(run, run.config(steps)) for run, steps in plan.series("rates") if steps == plan.fast]


def _known(*estimates: Estimate) -> bool:
    return all(math.isfinite(found.low) for found in estimates)


def _plain(numbers: Numbers, plan: Plan) -> tuple[str, int]:
    return f"plain-{plan.long}", plan.long


def _scale_of_plain(numbers: Numbers, plan: Plan) -> Verdict:
    config, steps = _plain(numbers, plan)
    if config not in numbers:
        config, steps = f"plain-{plan.full}", plan.full
    ratio, angle = numbers.mean(config, "norm_ratio"), numbers.mean(config, "angle")
    return Verdict(
        "Plain textual inversion ends far from where it starts, in scale and in direction.",
        f"After its last measured step the norm has grown more than {GROWTH:g} times (lower bound), "
        "and the angle to the start is above 45° (lower bound).",
        bool(ratio.low > GROWTH and angle.low > 45) if _known(ratio, angle) else None,
        f"After {steps} steps: norm {ratio.interval(2)} times that of the start, angle {angle.interval(1)}°.",
    )


def _scale_of_cross(numbers: Numbers, plan: Plan) -> Verdict:
    crossed, plain = f"cross-names-{plan.full}", f"plain-{plan.full}"
    ratio, angle = numbers.mean(crossed, "norm_ratio"), numbers.mean(crossed, "angle")
    turned = numbers.difference(plain, crossed, "angle")
    return Verdict(
        "Cross initialization narrows the gap between start and result.",
        f"After {plan.full} steps the norm is {STEADY[0]:g} to {STEADY[1]:g} times that of the start (whole interval), and "
        "the angle is smaller than plain textual inversion's after as many steps.",
        bool(STEADY[0] <= ratio.low and ratio.high <= STEADY[1] and turned.low > 0) if _known(ratio, turned) else None,
        f"Norm {ratio.interval(2)} times that of the start, angle {angle.interval(1)}°; plain textual inversion turns "
        f"{turned.interval(1, sign=True)}° more.",
    )


def _fewer_steps(numbers: Numbers, plan: Plan) -> Verdict:
    short, long = f"cross-names-{plan.full}", f"plain-{plan.long}"
    likeness, shown = (numbers.difference(short, long, name) for name in ("likeness", "editability"))
    return Verdict(
        f"{plan.full} steps are enough where plain textual inversion takes {plan.long:,}.",
        f"Neither likeness nor editability is worse by more than {MARGIN:g} (lower bounds of the paired differences).",
        bool(min(likeness.low, shown.low) > -MARGIN) if _known(likeness, shown) else None,
        f"Cross initialization after {plan.full} steps minus plain textual inversion after {plan.long:,}: likeness "
        f"{likeness.interval(sign=True)}, editability {shown.interval(sign=True)} ({likeness.count} people).",
    )


def _both_better(rival: str, named: str) -> Callable[[Numbers, Plan], Verdict]:
    def judge(numbers: Numbers, plan: Plan) -> Verdict:
        ours, theirs = f"cross-names-{plan.full}", rival.format(full=plan.full, long=plan.long)
        what = named.format(full=plan.full, long=f"{plan.long:,}")
        likeness, shown = (numbers.difference(ours, theirs, name) for name in ("likeness", "editability"))
        return Verdict(
            f"Likeness and editability are both better than {what}.",
            "Both paired differences are above 0 (lower bounds).",
            bool(min(likeness.low, shown.low) > 0) if _known(likeness, shown) else None,
            f"Likeness {likeness.interval(sign=True)}, editability {shown.interval(sign=True)} ({likeness.count} people).",
        )

    return judge


def best_rate(numbers: Numbers, plan: Plan, start: Start) -> tuple[Run | None, int]:
    """The run from this start whose mean score after all steps is best, over the people who were learned at every rate,
    and how many these are; None if there are no such people."""
    runs = [run for run, _ in plan.series("starts") if run.start == start]
    scores = {run: numbers.score(run.config(plan.full)) for run in runs}
    shared = _shared(scores.values())
    return max(runs, key=lambda run: sum(scores[run][i] for i in shared)) if shared else None, len(shared)


def _better_at_best_rates(numbers: Numbers, plan: Plan) -> Verdict:
    (ours, many), (plain, few) = best_rate(numbers, plan, "cross names"), best_rate(numbers, plan, "words")
    first, second = (run.config(plan.full) if run else "" for run in (ours, plain))
    likeness, shown = (numbers.difference(first, second, name) for name in ("likeness", "editability"))
    rates = [run.learning_rate if run else None for run in (ours, plain)]
    return Verdict(
        f"Likeness and editability are both better than plain textual inversion after as many steps ({plan.full}), where "
        "each has its own best learning rate.",
        "Both paired differences are above 0 (lower bounds); the best rate is the one with the best mean score, see below, "
        "over the people who were learned at every rate.",
        bool(min(likeness.low, shown.low) > 0) if _known(likeness, shown) else None,
        f"At {rates[0]} (the best for {many} people) against {rates[1]} (for {few}): likeness "
        f"{likeness.interval(sign=True)}, editability {shown.interval(sign=True)} ({likeness.count} people).",
    )


def _fast_better(numbers: Numbers, plan: Plan) -> Verdict:
    rate, _ = fast_learning_rate(numbers, plan)
    chosen = [config for run, config in _fast_runs(plan) if run.learning_rate == rate]
    rival = f"plain-{plan.long}"
    ours = chosen[0] if chosen else ""
    likeness, shown = (numbers.difference(ours, rival, name) for name in ("likeness", "editability"))
    return Verdict(
        f"Even {plan.fast} steps give better likeness and editability than plain textual inversion after {plan.long:,}.",
        "Both paired differences are above 0 (lower bounds), at the fast preset's learning rate as chosen below.",
        bool(min(likeness.low, shown.low) > 0) if _known(likeness, shown) else None,
        f"At learning rate {rate}: likeness {likeness.interval(sign=True)}, editability {shown.interval(sign=True)} "
        f"({likeness.count} people).",
    )


def _lambda_helps(numbers: Numbers, plan: Plan) -> Verdict:
    off, default = f"lambda-0-{plan.full}", f"cross-names-{plan.full}"
    shown, likeness = (numbers.difference(default, off, name) for name in ("editability", "likeness"))
    return Verdict(
        "The regularizer at the published lambda of 1e-5 improves editability.",
        "Editability is better than with lambda 0 (lower bound of the paired difference above 0).",
        bool(shown.low > 0) if _known(shown) else None,
        f"Lambda 1e-5 minus lambda 0: editability {shown.interval(sign=True)}, likeness {likeness.interval(sign=True)}.",
    )


def _lambda_trades(numbers: Numbers, plan: Plan) -> Verdict:
    off, strong = (plan.series("lambda")[i][0].config(plan.full) for i in (0, -1))
    near, shown, likeness = (
        numbers.difference(strong, off, name) for name in ("distance", "editability", "likeness")
    )  # fmt: skip
    return Verdict(
        "A larger lambda keeps the vectors near their start and trades likeness for editability.",
        "From lambda 0 to 1e-2 distance and likeness fall and editability rises (bounds of the paired differences).",
        bool(near.high < 0 and likeness.high < 0 and shown.low > 0) if _known(near, shown, likeness) else None,
        f"Lambda 1e-2 minus lambda 0: distance {near.interval(2, sign=True)}, likeness {likeness.interval(sign=True)}, "
        f"editability {shown.interval(sign=True)}.",
    )


def _expressions(numbers: Numbers, plan: Plan) -> Verdict:
    share = numbers.mean(f"cross-names-{plan.full}", "expressions")
    painted = numbers.mean("reference", "expressions")
    return Verdict(
        "Expressions can be edited.",
        f"More than half of the pictures for the four prompts that ask for an expression show it (lower bound above {HALF:g}; "
        "guessing gives 0.2).",
        bool(share.low > HALF) if _known(share) else None,
        f"Share {share.interval()}; repainted pictures {painted.mean:.3f}.",
    )


def _only_method(numbers: Numbers, plan: Plan) -> Verdict:
    ours, rival = f"cross-names-{plan.full}", f"plain-{plan.long}"
    apart = numbers.difference(ours, rival, "expressions")
    theirs = numbers.mean(rival, "expressions")
    return Verdict(
        "Plain textual inversion cannot edit expressions.",
        "At most half of its pictures show the expression asked for (upper bound), fewer than with cross initialization.",
        bool(theirs.high <= HALF and apart.low > 0) if _known(theirs, apart) else None,
        f"After {plan.long:,} steps: share {theirs.interval()}; cross initialization minus that {apart.interval(sign=True)}.",
    )


_CLAIMS: tuple[Callable[[Numbers, Plan], Verdict], ...] = (
    _scale_of_plain,
    _scale_of_cross,
    _fewer_steps,
    _both_better("plain-{long}", "plain textual inversion after {long} steps"),
    _both_better("plain-{full}", "plain textual inversion after as many steps ({full})"),
    _better_at_best_rates,
    _both_better("mean-{full}", "the same start without the encoder pass, after {full} steps"),
    _fast_better,
    _lambda_helps,
    _lambda_trades,
    _expressions,
    _only_method,
)
