import math
from typing import Any

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.optim.schedules import ScheduleConfig, make_schedule

PEAK, NUM_STEPS, WARMUP, COOLDOWN = 0.5, 100, 10, 20


def values(**fields: Any) -> list[float]:
    schedule = make_schedule(ScheduleConfig(**fields), PEAK, NUM_STEPS)
    return [float(schedule(step)) for step in range(NUM_STEPS + 1)]


def after_warmup(step: int) -> float:
    return (step - WARMUP) / (NUM_STEPS - WARMUP)


CLOSED_FORMS = {
    "cosine": lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * after_warmup(t))) / 2,
    "linear": lambda t: 0.1 + 0.9 * (1 - after_warmup(t)),
    "rsqrt": lambda t: math.sqrt(50 / (50 + t - WARMUP)),
    "constant": lambda t: 1.0,
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_equals_closed_form_on_both_sides_of_warmup(name: str) -> None:
    learning_rates = values(name=name, warmup_steps=WARMUP, timescale_steps=50, end_factor=0.1)
    expected = [(t + 1) / WARMUP for t in range(WARMUP)] + [CLOSED_FORMS[name](t) for t in range(WARMUP, NUM_STEPS + 1)]
    np.testing.assert_allclose(learning_rates, PEAK * np.array(expected), rtol=1e-6)


@pytest.mark.parametrize("name", ["rsqrt", "wsd"])
def test_cool_down_is_linear_from_the_value_above_it(name: str) -> None:
    learning_rates = values(name=name, cooldown_steps=COOLDOWN, timescale_steps=50, end_factor=0.1)
    start = NUM_STEPS - COOLDOWN
    above = [math.sqrt(50 / (50 + t)) if name == "rsqrt" else 1.0 for t in range(NUM_STEPS + 1)]
    share = [max(0.0, (t - start) / COOLDOWN) for t in range(NUM_STEPS + 1)]
    expected = [PEAK * ((1 - c) * y + c * 0.1) for c, y in zip(share, above, strict=True)]
    np.testing.assert_allclose(learning_rates, expected, rtol=1e-6)


def test_without_warmup_the_first_update_has_the_peak() -> None:
    assert values(name="cosine")[0] == PEAK


def test_no_update_is_wasted_at_either_end() -> None:
    learning_rates = values(name="linear", warmup_steps=WARMUP)
    assert min(learning_rates[:NUM_STEPS]) > 0
    assert learning_rates[NUM_STEPS] == 0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"warmup_steps": NUM_STEPS}, "train.num_steps"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"name": "wsd", "warmup_steps": 90, "cooldown_steps": 11}, "cooldown_steps"),
        ({"name": "wsd"}, "cooldown_steps"),
        ({"name": "cosine", "cooldown_steps": 5}, "cooldown_steps"),
    ],
)
def test_steps_that_do_not_fit_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make_schedule(ScheduleConfig(**fields), PEAK, NUM_STEPS)
