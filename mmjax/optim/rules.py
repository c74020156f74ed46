"""Which parameters learn, how fast, and which decay: an ordered list of regular expressions on parameter paths.

A pattern must match the *whole* path (`re.fullmatch`), so that `image/.*` never touches `text/image/...`. The first
rule that matches decides, so put special rules before general ones: `(Rule("image/.*", freeze=True), *DEFAULT_RULES)`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmjax.errors import UserError
from mmjax.optim import paths
from mmjax.types import Params


@dataclass(frozen=True)
class Rule:
    """How the parameters whose whole path matches `pattern` are trained.

    `lr_scale` multiplies the learning rate and `decay_scale` the weight decay; decay also shrinks with the learning
    rate, so a parameter loses `lr * lr_scale * weight_decay * decay_scale` of itself a step. A frozen parameter gets
    exactly zero updates, takes no optimizer memory, and is left out of the clipping norm.
    """

    pattern: str
    lr_scale: float = 1.0
    decay_scale: float = 1.0
    freeze: bool = False


NO_DECAY = r"(.*/)?(bias|scale|positions|class_token|probe|log_scale|logit_bias)"
"""Biases, norms, positions, class token and pooling query, and the two scalars of the loss: decay pulls towards zero,
which is no simpler a value for any of them."""

DEFAULT_RULES = (Rule(NO_DECAY, decay_scale=0.0), Rule(".*"))


def assign(rules: Sequence[Rule], params: Params) -> dict[str, Rule]:
    """The rule of every parameter, by path.

    Raises:
        UserError: a pattern that is no regular expression, a parameter that no rule covers, or a rule that acts on
            nothing (a likely typo, or one put after a rule that already takes its parameters).
    """
    names = list(paths.leaves(params))
    matches = {rule: matching(rule.pattern, names, "optim.rules") for rule in rules}
    assigned: dict[str, Rule] = {}
    for rule, matched in matches.items():
        fresh = {name: rule for name in matched if name not in assigned}
        if not fresh and len(matched) < len(names):
            raise UserError(_shadowed(rule, assigned[matched[0]]))
        assigned |= fresh
    _refuse_uncovered([name for name in names if name not in assigned])
    return assigned


def matching(pattern: str, names: Iterable[str], key: str) -> list[str]:
    """The names that `pattern` matches whole.

    Raises:
        UserError: it matches none, or is no regular expression; the line names the config `key` and the nearest paths.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{key}: {pattern!r} is not a regular expression ({error}): correct it") from error
    names = list(names)
    found = [name for name in names if compiled.fullmatch(name)]
    if not found:
        raise UserError(
            f"{key}: {pattern!r} matches no parameter path as a whole: correct it or remove it; "
            f"the nearest are {', '.join(paths.nearest(pattern, names))}"
        )
    return found


def _shadowed(rule: Rule, earlier: Rule) -> str:
    return (
        f"optim.rules: {rule.pattern!r} has no effect, because {earlier.pattern!r} before it takes its parameters: "
        "move it up or remove it"
    )


def _refuse_uncovered(names: list[str]) -> None:
    if names:
        others = f" (and {len(names) - 1} others)" if len(names) > 1 else ""
        raise UserError(f"optim.rules: no rule covers {names[0]!r}{others}: add a rule, such as Rule('.*') at the end")
