"""How far an export is from the model that was trained, and whether that is near enough."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.proof.loaded import Loaded, open_image
from mmjax.proof.sample import FOLDER, IMAGES, Sample

OUTPUT_BAR = 1e-4
"""The largest difference of a normalised feature, of a logit, and of any other output, in float32."""
PIXEL_BAR = 0
"""The largest difference of a pixel value of 0 to 255."""
TOKEN_BAR = 0
"""The most token ids that may differ."""
TOP_K = (1, 5)
MAX_PIXEL = 255


def parity(export: Path, sample: Sample, loaded: Loaded) -> dict[str, Any]:
    """What `parity.json` says: differences of pixels, tokens and every output, and how far retrieval agrees."""
    measured: dict[str, Any] = {}
    if loaded.pixels and sample.case_files:
        measured["pixels"] = _pixels(export, sample, loaded)
    if loaded.tokens:
        measured["tokens"] = _tokens(sample, loaded)
    if failures(measured):
        # Of other inputs the outputs say nothing, and a model may refuse them.
        return _result(sample, loaded, measured)
    found = loaded.outputs(_inputs(sample, loaded))
    kept = {name: array[sample.places[name]] if name in sample.places else array for name, array in found.items()}
    measured["outputs"] = {name: difference(array, sample.outputs[name]) for name, array in kept.items()}
    if "logits" in found:
        measured["retrieval"] = _agreement(found["logits"], sample.outputs["logits"])
    left_out = sorted(sample.outputs.keys() - found.keys())
    return _result(sample, loaded, measured | ({"not_compared": left_out} if left_out else {}))


def _inputs(sample: Sample, loaded: Loaded) -> dict[str, np.ndarray]:
    """The pairs as the library prepares them; what it has no preprocessing for as it was."""
    inputs = {name: array for name, array in sample.inputs.items() if name not in ("image", "text_ids", "text_mask")}
    if loaded.pixels:
        inputs["image"] = loaded.pixels([_as_image(array) for array in sample.inputs["image"]])
    if loaded.tokens:
        ids, mask = loaded.tokens(sample.texts)
        inputs |= {"text_ids": ids} if mask is None else {"text_ids": ids, "text_mask": mask}
    return inputs


def _result(sample: Sample, loaded: Loaded, measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "library": loaded.library,
        "num_pairs": len(sample.texts),
        **measured,
        "bars": {"outputs": OUTPUT_BAR, "pixels": PIXEL_BAR, "tokens": TOKEN_BAR},
        "failures": failures(measured),
    }


def _largest(measured: Mapping[str, Any]) -> dict[str, float]:
    """The largest difference of each output."""
    return {name: value["max"] for name, value in measured.get("outputs", {}).items()}


def failures(measured: Mapping[str, Any]) -> list[str]:
    """What is above its bar, in words; not a number is too large."""
    found = [
        f"{_words(name)} differ by {largest:.1e} (bar {OUTPUT_BAR:.0e})"
        for name, largest in _largest(measured).items()
        if not largest <= OUTPUT_BAR
    ]
    for kind, bar in (("pixels", PIXEL_BAR), ("tokens", TOKEN_BAR)):
        for case, number in measured.get(kind, {}).get("cases", {}).items():
            if number > bar:
                found.append(f"{kind} of {case!r} differ by {number}")
    return found


def in_a_line(result: Mapping[str, Any]) -> str:
    """The result for the terminal."""
    parts = [f"{_words(name)} {largest:.1e}" for name, largest in _largest(result).items()]
    if "retrieval" in result:
        parts += [f"top-{k} the same for {result['retrieval'][f'top{k}']:.1%}" for k in TOP_K]
    for kind in ("pixels", "tokens"):
        if kind in result:
            parts.append(f"{kind} {max(result[kind]['cases'].values())} in {len(result[kind]['cases'])} cases")
            parts += [
                f"of which the library has {key} {len(result[kind][key])}" for key in OWN_WAYS if key in result[kind]
            ]
    return f"largest differences: {', '.join(parts)} ({result['num_pairs']} pairs, {result['library']})"


def _words(name: str) -> str:
    return name.replace("_", " ")


OWN_WAYS = ("shifted", "cleaned")
"""What a library does otherwise by itself, and no export can change (see `Loaded`)."""


def difference(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The largest and the mean absolute difference."""
    distances = np.abs(found.astype(np.float64) - reference.astype(np.float64))
    return {"max": float(distances.max()), "mean": float(distances.mean())}


def _pixels(export: Path, sample: Sample, loaded: Loaded) -> dict[str, Any]:
    """The largest difference of a pixel value, 0 to 255, in each file; 255 where the image has another size.

    Where the library is known to cut elsewhere, the pixels that both have are compared, and the shift is stated.
    """
    assert loaded.pixels is not None
    cases, shifted = {}, {}
    for name, reference in zip(sample.case_files, sample.case_pixels, strict=True):
        image = open_image(export / FOLDER / IMAGES / name)
        (found,) = loaded.pixels([image])
        if found.shape[1:] != reference.shape[:2]:
            cases[name] = MAX_PIXEL
            continue
        values = (found.transpose(1, 2, 0) * np.asarray(loaded.std) + np.asarray(loaded.mean)) * 255
        down, right = loaded.shift(image) if loaded.shift else (0, 0)
        height, width = reference.shape[0] - down, reference.shape[1] - right
        cases[name] = int(np.abs(np.rint(values)[:height, :width] - reference[down:, right:]).max())
        if down or right:
            shifted[name] = [down, right]
    return {"cases": cases, **({"shifted": shifted} if shifted else {})}


def _tokens(sample: Sample, loaded: Loaded) -> dict[str, Any]:
    """How many ids differ in each text, mask included where there is one; all where the length is another."""
    assert loaded.tokens is not None
    ids, mask = loaded.tokens(sample.case_texts)
    if ids.shape != sample.case_ids.shape:
        return {"cases": {_shown(text): sample.case_ids.shape[1] for text in sample.case_texts}}
    wrong = ids != sample.case_ids
    if mask is not None:
        wrong |= mask.astype(bool) != sample.case_mask
    cases = {_shown(text): int(row.sum()) for text, row in zip(sample.case_texts, wrong, strict=True)}
    cleaned = loaded.cleaned((*sample.case_texts, *sample.texts)) if loaded.cleaned else {}
    own = {"cleaned": {_shown(text): _shown(read) for text, read in cleaned.items()}} if cleaned else {}
    return {"cases": cases, **own}


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text)} letters)"


def _agreement(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The share of queries, in both directions, whose first text or image is the same; of the first five, how many."""
    both = ((found, reference), (found.T, reference.T))
    return {f"top{k}": float(np.mean([_overlap(_top(x, k), _top(y, k)) for x, y in both])) for k in TOP_K}


def _top(logits: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]


def _overlap(found: np.ndarray, reference: np.ndarray) -> float:
    """The mean share of each row of `reference` that is in the same row of `found`."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, reference, strict=True)]))


def _as_image(array: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(array)
