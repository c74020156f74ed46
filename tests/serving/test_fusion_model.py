"""Fusion models in plain PyTorch against the same in JAX."""

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mmjax import config as configs
from mmjax.data.preprocess import PreprocessConfig
from mmjax.errors import UserError
from mmjax.interop.formats import Spec
from mmjax.interop.fusion.albef import ALBEF
from mmjax.interop.fusion.own import MMJAX_FUSION, from_reference
from mmjax.interop.fusion.uniter import UNITER
from mmjax.interop.fusion.vilbert import VILBERT
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.serving.models.fusion import Fusion
from tests.parity.fusion_models import Run
from tests.parity.test_fusion_references import Facts, regions_of
from tests.serving.fusion_cases import (
    GRID,
    MODELS,
    PATCHES,
    WORDS,
    batch_of,
    masked_of,
    torch_batch,
    torch_module,
    weights_of,
    with_image,
)
from tests.tolerances import LAYER, MODEL, above, relative_errors

CLOSE = 2 * LAYER


def torch_results(module: Fusion, batch: Any, masked: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Both streams and all outputs by name."""
    hidden = None if masked is None else torch.from_numpy(masked)
    with torch.inference_mode():
        streams = module.streams(torch_batch(batch), hidden)
        outputs = module(torch_batch(batch), hidden)
    named = {**outputs, **streams._asdict()}
    return {name: x.numpy() for name, x in named.items() if x is not None}


def jax_results(run: Run, batch: Any, masked: np.ndarray | None = None) -> dict[str, np.ndarray]:
    streams, outputs = run(batch, masked)
    named = {**outputs, **streams._asdict()}
    return {name: x for name, x in named.items() if x is not None}


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_jax_does(name: str) -> None:
    """Full, and padded with parts of the image hidden; at padding the streams are compared too."""
    model = MODELS[name]
    weights = weights_of(model)
    run, module = Run(model, weights), torch_module(model, weights)
    hidden = None if model.image is None else masked_of(model)
    for padded, masked in ((False, None), (True, hidden)):
        batch = batch_of(model, padded)
        expected, found = jax_results(run, batch, masked), torch_results(module, batch, masked)
        assert found.keys() == expected.keys()
        assert above(relative_errors(found, expected), CLOSE) == {}, padded


PUBLISHED = {
    "vilbert": published.vilbert,
    "uniter": published.uniter,
    "albef": published.albef,
    "concatenation": published.concatenation,
}


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_compute_what_jax_does(name: str) -> None:
    """Every output, to 1e-4 relative and, as numbers are of order 1, absolute."""
    model = PUBLISHED[name]()
    weights = weights_of(model)
    # Words are predicted through it: as it is drawn for small widths, their logits would be of order 14.
    weights["text/tokens/table"] /= 0.5 * math.sqrt(model.text.width)
    run, module = Run(model, weights), torch_module(model, weights)
    for padded in (False, True):
        batch = batch_of(model, padded)
        expected, found = jax_results(run, batch), torch_results(module, batch)
        assert found.keys() == expected.keys()
        assert above(relative_errors(found, expected), MODEL) == {}, padded
        largest = {key: float(np.abs(found[key] - expected[key]).max()) for key in found}
        print(f"{name}, padded {padded}: largest difference {max(largest.values()):.1e}")
        assert above(largest, MODEL) == {}, padded


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.embed_dim])
def test_towers_embed_as_in_jax(name: str) -> None:
    model = MODELS[name]
    weights, batch = weights_of(model), batch_of(model, padded=True)
    fusion, module = Run(model, weights).module, torch_module(model, weights)
    with torch.inference_mode():
        pairs = torch_batch(batch)
        found = {
            "text": module.embed_text(module.encode_text(pairs["text_ids"], pairs["text_mask"])),
            "image": module.embed_image(module.encode_image(pairs)),
        }
    ours = {name: jnp.asarray(x) for name, x in batch.items()}
    expected = {
        "text": fusion.embed_text(fusion.encode_text(ours["text_ids"], ours["text_mask"])),
        "image": fusion.embed_image(fusion.encode_image(ours)),
    }
    assert above(relative_errors(found, expected), CLOSE) == {}
    assert found["text"].dtype == torch.float32
    np.testing.assert_allclose(found["text"].norm(dim=-1), 1, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_back_bit_for_bit(name: str) -> None:
    model = MODELS[name]
    weights = weights_of(model)
    state = {name: x.numpy() for name, x in torch_module(model, weights).state_dict().items()}
    returned = dict(MMJAX_FUSION.parameters(model, state))
    assert returned.keys() == weights.keys()
    for path, array in weights.items():
        np.testing.assert_array_equal(returned[path], array, err_msg=path)


@pytest.mark.parametrize("name", MODELS)
def test_configs_come_back(name: str) -> None:
    model = MODELS[name]
    shape = model.image_shape
    preprocess = None if shape is None else PreprocessConfig(shape[0], "squash", "bilinear", shape[1])
    assert MMJAX_FUSION.differences(Spec(model, preprocess)) == {}
    returned = MMJAX_FUSION.read(MMJAX_FUSION.write(Spec(model, preprocess)))
    assert returned.model == model


@pytest.mark.parametrize("image", [PATCHES, GRID], ids=["patches", "grid"])
def test_pixels_are_normalised_as_the_image_processor_says(image: Any) -> None:
    spec = Spec(with_image(image), PreprocessConfig(image.image_shape[0], "squash", "bicubic", image.image_shape[1]))
    files = dict(MMJAX_FUSION.write(spec))
    files["preprocessor_config.json"] = {**files["preprocessor_config.json"], "image_mean": [0.1, 0.2, 0.3]}
    assert MMJAX_FUSION.read(files).model.image_colours == ((0.1, 0.2, 0.3), image.image_colours[1])


@pytest.mark.parametrize("name", ["vilbert_small", "uniter_small"])
def test_weights_of_the_authors_give_what_their_code_gives(name: str) -> None:
    """Their names to ours, without JAX computing anything, and then PyTorch alone."""
    facts = Facts(name)
    tensors = {
        key: torch.from_numpy(np.array(x)) for key, x in from_reference(facts.format, facts.model, facts.weights)
    }
    module = Fusion(configs.to_dict(facts.model))
    module.load_state_dict(tensors, strict=True)
    outputs = {"vilbert": ["text_pooled", "image_pooled", "token_logits", "pair_logits"], "uniter": ["pair_logits"]}
    for case in ("full", "padded"):
        batch = facts.batch(case)
        masked = batch.masked_regions if facts.format is VILBERT else None
        results = torch_results(module.eval(), regions_of(batch), masked)
        found = {output: results[output] for output in outputs[name.split("_")[0]]}
        assert above(facts.errors(case, found), CLOSE) == {}


@pytest.mark.parametrize(("name", "format"), [("vilbert", VILBERT), ("uniter", UNITER), ("albef", ALBEF)])
def test_every_name_of_a_reference_becomes_one_of_the_module(name: str, format: Any) -> None:
    model = MODELS[name]
    weights = weights_of(model)
    theirs = dict(format.tensors(model, weights))
    found, expected = dict(from_reference(format, model, theirs)), dict(MMJAX_FUSION.tensors(model, weights))
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        # ALBEF stores a temperature, of which the logarithm is taken.
        np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-6 if key == "log_scale" else 0, err_msg=key)


def test_padding_changes_nothing() -> None:
    """Longer texts and more regions, all of them hidden: what serving makes of requests of different lengths."""
    for name in ("vilbert", "uniter", "lxmert", "concat"):
        module, batch = torch_module(MODELS[name], weights_of(MODELS[name])), batch_of(MODELS[name], padded=False)
        wider = {key: np.pad(x, [(0, 0), (0, 2), *[(0, 0)] * (x.ndim - 2)]) for key, x in batch.items()}
        found, expected = torch_results(module, wider), torch_results(module, batch)
        found |= {key: found[key][:, : expected[key].shape[1]] for key in expected if expected[key].ndim == 3}
        assert above(relative_errors(found, expected), CLOSE) == {}, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near_and_finite(dtype: torch.dtype) -> None:
    for name in ("albef", "uniter", "unlike any", "grid"):
        model = MODELS[name]
        exact, batch = torch_module(model, weights_of(model)), torch_batch(batch_of(model, padded=False))
        half = torch_module(model, weights_of(model)).to(dtype)
        with torch.inference_mode():
            expected, found = exact(batch)["pair_logits"], half(batch)["pair_logits"]
        assert found.dtype == dtype
        assert (found.float() - expected).norm() / expected.norm() < 20 * torch.finfo(dtype).eps, name


def changed(values: Any, path: str, change: Any) -> Any:
    """A copy with one nested dict given to `change`."""
    first, _, rest = path.partition(".")
    if not first:
        return change(dict(values))
    if isinstance(values, list):
        return [changed(values[0], rest, change), *values[1:]] if first == "0" else values
    return {**values, first: changed(values[first], rest, change)}


def without_one(values: dict[str, Any]) -> dict[str, Any]:
    return dict(list(values.items())[1:])


@pytest.mark.parametrize("path", ["", "text", "image", "towers", "towers.text", "fusion.groups.0.layers.0", "heads"])
def test_fields_that_are_unknown_or_missing_are_named(path: str) -> None:
    values = configs.to_dict(MODELS["uniter"])
    with pytest.raises(UserError, match="does not know novelty"):
        Fusion(changed(values, path, lambda inside: {**inside, "novelty": 1}))
    with pytest.raises(UserError, match="lacks"):
        Fusion(changed(values, path, without_one))


def test_an_image_input_of_another_kind_is_refused() -> None:
    values = configs.to_dict(MODELS["uniter"])
    with pytest.raises(UserError, match="'system', not one of RegionInputConfig"):
        Fusion(changed(values, "image", lambda image: {**image, "class": "os:system"}))


def test_inputs_that_do_not_fit_are_refused() -> None:
    module = Fusion(configs.to_dict(with_image(PATCHES)))
    with pytest.raises(ValueError, match=r"images of \(12, 12\) pixels, where the model takes \(12, 18\)"):
        module.encode_image({"image": torch.zeros(1, 3, 12, 12)})
    long = torch.ones(1, WORDS.context_len + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="texts of 12 tokens, where the model takes at most 11"):
        module.encode_text(long, long.bool())
    crossing = Fusion(configs.to_dict(MODELS["albef"]))
    with pytest.raises(ValueError, match="reads the image, which is not run"):
        crossing.fuse(crossing.encode_text(long[:, :4], long[:, :4].bool()), None)


def test_a_model_without_its_heads_has_no_outputs_of_them() -> None:
    model: FusionConfig = replace(MODELS["vilt"], pooler=None)
    batch = batch_of(model, padded=False)
    assert torch_module(model, weights_of(model))(torch_batch(batch)) == {}
