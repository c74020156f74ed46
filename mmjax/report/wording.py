"""Figures as a reader would say them."""

from collections.abc import Mapping
from typing import Any


def place(rank: int) -> str:
    """The place of the right answer in words: rank 0 is first."""
    return "right at once" if rank == 0 else f"the right answer comes {ordinal(rank + 1)}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ..., 11th, ..., 21st."""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def percent(share: float) -> str:
    """One decimal, two where the share is below one percent."""
    return f"{share:.2%}" if share < 0.01 else f"{share:.1%}"


def duration(secs: float) -> str:
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def written(value: Any) -> str:
    """A config value; whole numbers with their thousands apart."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def of_pairs(results: Mapping[str, Any]) -> list[str]:
    """What a fusion model reaches on a split beside retrieval, from the results of its evaluations, a clause each."""
    found = []
    if "choice" in results:
        matched = percent(results["choice"]["match_accuracy"])
        found.append(f"match of right pairs and others {matched} (chance 50%)")
    if "reranked" in results:
        matched = percent(results["reranked"]["match_accuracy"])
        found.append(f"match of right pairs and nearest wrong ones {matched} (chance 50%)")
    if "masked_words" in results:
        words = results["masked_words"]
        own, other, none = (percent(words[name]) for name in ("with_image", "other_image", "without_image"))
        found.append(f"masked words right {own} with the image, {other} with another one, {none} with none")
    return found
