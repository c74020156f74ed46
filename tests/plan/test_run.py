"""Hours, money and stops of a run, by hand."""

import pytest

from mmjax.errors import UserError
from mmjax.plan.run import PRICES, preempted_share, read_price, run_cost


def test_a_run_takes_its_steps_times_chips_times_price():
    cost = run_cost(step_secs=0.5, num_steps=7200, batch_size=4096, num_devices=16, price=1.5)
    assert cost == (8192, 1.0, 16.0, 24.0)
    assert run_cost(0.5, 7200, 4096, 16, None).cost is None


def test_a_stop_loses_half_an_interval_and_a_restart():
    # 1,000 steps of 0.72 s lose 360 s on average, 540 s with the restart, of 3,600.
    assert preempted_share(0.72, 1000, preempt_hours=1, restart_secs=180) == 540 / (3600 - 540)
    assert preempted_share(10, 1000, preempt_hours=1, restart_secs=180) == float("inf")


def test_prices_are_a_table_of_kinds(tmp_path):
    assert read_price("v5e:4x4") > 0
    assert read_price("cpu:8") is None
    own = tmp_path / "prices.toml"
    own.write_text("v5e = 0.5\nv4 = 'dear'\n")
    assert read_price("v5e:4x4", own) == 0.5
    with pytest.raises(UserError, match="has 'dear' for v4: write a number"):
        read_price("v4:2x2x1", own)
    with pytest.raises(UserError, match="cannot be read"):
        read_price("v5e:4x4", tmp_path / "none.toml")
    assert PRICES.is_file()
