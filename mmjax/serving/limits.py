"""What one request, and all of them together, may ask for; and how a request beyond it is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MEBI = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds of the service; together they bound its memory.

    body_bytes: of one request.
    all_bodies_bytes: of the requests that are being read or answered, together.
    body_secs: to send a body.
    answer_secs: from the last byte of the body to the answer.
    json_values: commas and brackets of a JSON body, a bound on the objects it becomes.
    images: of one request.
    pixels: of one image; Pillow's own limit (89 million) gives a warning only.
    aspect: longer side over shorter; scaling the shorter side up to the model's size makes such images huge.
    texts: of one request.
    text_chars: of one text, label or template.
    labels, templates, prompts: of one classification; prompts are labels times templates.
    results: of one search.
    pairs: texts that are matched with one image.
    regions: of one image, for models that take regions.
    masks, words: places that one text leaves open, and words that are named for each.
    queued_images, queued_texts: accepted and not answered, of all requests.
    """

    body_bytes: int = 16 * MEBI
    all_bodies_bytes: int = 128 * MEBI
    body_secs: float = 30.0
    answer_secs: float = 60.0
    json_values: int = 20_000
    images: int = 64
    pixels: int = 40_000_000
    aspect: int = 100
    texts: int = 256
    text_chars: int = 2_000
    labels: int = 1_000
    templates: int = 100
    prompts: int = 2_000
    results: int = 100
    pairs: int = 64
    regions: int = 128
    masks: int = 32
    words: int = 100
    queued_images: int = 256
    queued_texts: int = 4_096


class Refused(Exception):
    """A request that is answered with a status of 4xx or 503 and a sentence that says why."""

    def __init__(self, status: int, reason: str, detail: str):
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, where that helps."""
        return {"retry-after": "1"} if self.status == 503 else {}


def overloaded(what: str) -> Refused:
    return Refused(503, "overload", f"{what}: try again later")


class Gate:
    """Counts what is inside and lets no more in than `capacity`; used from the event loop alone."""

    def __init__(self, name: str, capacity: int):
        self.name, self._capacity = name, capacity
        self.inside = 0

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Holds `count` places while the block runs.

        Raises:
            Refused: (503) there are not so many free.
        """
        self.take(count)
        try:
            yield
        finally:
            self.leave(count)

    def take(self, count: int) -> None:
        if self.inside + count > self._capacity:
            raise overloaded(f"the service is busy with {self.inside} {self.name}")
        self.inside += count

    def leave(self, count: int) -> None:
        self.inside -= count
