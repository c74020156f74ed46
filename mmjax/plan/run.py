"""What a whole run takes: steps, hours, money, and what stopping again and again adds."""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from mmjax.errors import UserError

PRICES = Path(__file__).with_name("prices.toml")
"""The table that ships with mmjax; --prices names another."""
RESTART_SECS = 180.0
"""From a stop to the next step, beside what is computed again: a machine, processes, the compiler, the checkpoint."""


class RunCost(NamedTuple):
    """Of a run at one end of the bracket of a step's time."""

    examples_per_sec: float
    hours: float
    chip_hours: float
    cost: float | None
    """In the currency of the table; None without a price."""


def run_cost(step_secs: float, num_steps: int, batch_size: int, num_devices: int, price: float | None) -> RunCost:
    hours = num_steps * step_secs / 3600
    chip_hours = hours * num_devices
    return RunCost(batch_size / step_secs, hours, chip_hours, None if price is None else chip_hours * price)


def preempted_share(step_secs: float, every_steps: int, preempt_hours: float, restart_secs: float) -> float:
    """How much longer a run takes that is stopped every `preempt_hours`: as a share of its time.

    A stop without notice loses the steps since the last checkpoint, half an interval on average, and the time of a
    restart.
    """
    lost = every_steps * step_secs / 2 + restart_secs
    useful = preempt_hours * 3600 - lost
    return lost / useful if useful > 0 else float("inf")


def read_price(topology: str, path: Path = PRICES) -> float | None:
    """The price of an hour of one chip of that kind, or None.

    Raises:
        UserError: the table cannot be read, or has something else than a number.
    """
    try:
        prices: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(
            f"prices {path} cannot be read ({error}): give a TOML file of lines such as v5e = 1.2"
        ) from error
    price = prices.get(topology.partition(":")[0])
    if price is None:
        return None
    if isinstance(price, bool) or not isinstance(price, int | float) or price < 0:
        raise UserError(f"prices {path} has {price!r} for {topology.partition(':')[0]}: write a number, per chip-hour")
    return float(price)
