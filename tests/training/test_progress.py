import io

from rich.console import Console

from mmjax.training.progress import ProgressBar


def shown(*, terminal: bool, steps: range, plain_every_secs: float = 0.0) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, legacy_windows=False, _environ={"TERM": "xterm"})
    with ProgressBar(20, steps.start - 1, console, plain_every_secs) as progress:
        for step in steps:
            progress.update(step, 1.0 / step, 1234.5)
        progress.say("evaluation at [10]: 41.0%")
    return output.getvalue()


def test_a_terminal_shows_a_bar() -> None:
    text = shown(terminal=True, steps=range(1, 11))
    assert "10/20" in text
    assert "loss 0.1000" in text
    assert "1,234 examples/s" in text
    assert "evaluation at [10]: 41.0%" in text


def test_a_log_file_gets_plain_lines() -> None:
    first, *_, last = shown(terminal=False, steps=range(11, 13)).splitlines()
    assert first.startswith("step 11/20  loss 0.0909  1,234 examples/s  0:00:00 left")
    assert last == "evaluation at [10]: 41.0%"


def test_plain_lines_are_few_but_the_last_step_is_there() -> None:
    lines = shown(terminal=False, steps=range(1, 21), plain_every_secs=3600).splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["1/20", "20/20"]
