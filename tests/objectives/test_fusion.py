"""The objective of fusion models: each term against the functions that it is made of, and the same on every mesh."""

import functools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from mmjax import config
from mmjax.data.config import DataConfig
from mmjax.data.regions import RegionsConfig
from mmjax.errors import UserError
from mmjax.experiment import EvalsConfig, Experiment, from_values
from mmjax.losses import contrastive
from mmjax.losses.pairs import answer_cross_entropy, pair_cross_entropy
from mmjax.losses.regions import (
    class_cross_entropy,
    class_divergence,
    feature_regression,
    normalised_patches,
    smooth_feature_regression,
)
from mmjax.losses.transport import word_region_alignment
from mmjax.models.fusion import published
from mmjax.models.fusion.heads import HeadsConfig, RegionHeadConfig
from mmjax.models.fusion.model import Fusion, FusionConfig
from mmjax.models.fusion.patches import PatchInputConfig
from mmjax.models.fusion.published import Size, Vocabulary
from mmjax.objectives import fusion_step
from mmjax.objectives.base import ObjectiveConfig
from mmjax.objectives.contrastive import ContrastiveConfig
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import (
    AlignTerm,
    AnswerTerm,
    ContrastTerm,
    FollowTerm,
    MatchTerm,
    RegionTerm,
    TokenTerm,
)
from mmjax.objectives.masking import MaskingConfig
from mmjax.objectives.negatives import sample_negatives
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training import gradients
from mmjax.training.program import Program, build_program
from mmjax.training.step import TrainConfig
from mmjax.types import Batch
from tests.parity.reference import seeded
from tests.tolerances import LAYER, above, relative_errors
from tests.training import toy

NUM_ROWS = 8
SIZE = Size(width=32, depth=2, num_heads=4, mlp_dim=48, dropout_rate=0.0, attention_dropout_rate=0.0)
WORDS = Vocabulary(vocab_size=100, context_len=8, num_token_types=2)
REGIONS = {"feature_dim": 16, "num_classes": 8}
ALBEF_SIZES: dict[str, int] = {"fusion_depth": 1, "image_side": 8, "patch_size": 4, "embed_dim": 16}
PIXELS = RegionHeadConfig((("pixels", 48),))
ALBEF = replace(
    published.albef(SIZE, replace(SIZE, norm_eps=1e-6), WORDS, **ALBEF_SIZES),
    heads=HeadsConfig(pair="token", regions=(PIXELS,)),
)
LXMERT_HEADS = {"feature_dim": 16, "num_objects": 6, "num_attributes": 4, "num_answers": 9}
UNITER = published.uniter(SIZE, WORDS, **REGIONS)
MASKING = {"mask_id": 3, "special_ids": (0, 1, 2, 3), "masking": MaskingConfig(rate=0.3, at_least_one=True)}
OBJECTIVES: dict[str, tuple[FusionConfig, FusionObjectiveConfig]] = {
    "albef": (
        ALBEF,
        FusionObjectiveConfig(
            contrast=ContrastTerm(queue_batches=2, momentum=0.5, distillation_steps=4),
            match=MatchTerm(),
            tokens=TokenTerm(distilled=True, **MASKING),
            regions=(RegionTerm(kind="pixels", rate=0.5),),
        ),
    ),
    "uniter": (
        UNITER,
        FusionObjectiveConfig(
            match=MatchTerm(weight=2.0, negatives="random", choice=0.5),
            tokens=TokenTerm(**MASKING),
            regions=(RegionTerm(kind="features"), RegionTerm(kind="divergence")),
            align=AlignTerm(),
        ),
    ),
    "drawn": (
        UNITER,
        FusionObjectiveConfig(
            tokens=TokenTerm(**MASKING), match=MatchTerm(negatives="random"), align=AlignTerm(weight=0.5), mix="draw"
        ),
    ),
    "lxmert": (
        published.lxmert(SIZE, WORDS, vision_depth=1, cross_depth=1, **LXMERT_HEADS),
        FusionObjectiveConfig(
            tokens=TokenTerm(image="masked", **MASKING),
            regions=(
                RegionTerm(kind="features", text="masked", smooth=True),
                RegionTerm(kind="classes", target="objects", text="masked", confidence=True, everywhere=True),
                RegionTerm(kind="classes", target="attributes", text="masked"),
            ),
            answers=AnswerTerm(text="masked", image="masked"),
        ),
    ),
    "visual_bert": (
        published.visual_bert(SIZE, WORDS, feature_dim=16),
        FusionObjectiveConfig(tokens=TokenTerm(**MASKING), follows=FollowTerm()),
    ),
    "undrawn": (replace(ALBEF, embed_pool="mean"), FusionObjectiveConfig(contrast=ContrastTerm(), match=MatchTerm())),
}


def batch_of() -> dict[str, np.ndarray]:
    """Eight examples, of which two are one pair, and one counts nothing."""
    batch = seeded.inputs(
        batch_size=4, text_len=8, num_regions=5, vocab_size=100, feature_dim=16, num_classes=8, padded=True
    )
    named = {
        "text_ids": batch.text_ids,
        "text_mask": batch.text_mask,
        "region_features": batch.features,
        "region_boxes": batch.boxes,
        "region_mask": batch.region_mask,
        "region_probabilities": batch.region_targets,
    }
    rows = {name: np.resize(array, (NUM_ROWS, *array.shape[1:])) for name, array in named.items()}
    rng = np.random.default_rng(0)
    return rows | {
        "image": rng.integers(0, 256, (NUM_ROWS, 8, 8, 3), np.uint8),
        "region_objects": rng.integers(0, 6, (NUM_ROWS, 5)).astype(np.int32),
        "region_objects_confidence": rng.random((NUM_ROWS, 5), np.float32),
        "region_attributes": rng.integers(0, 4, (NUM_ROWS, 5)).astype(np.int32),
        "ids": np.asarray([0, 1, 2, 3, 4, 5, 6, 0], np.int32),
        "weights": np.asarray([1, 1, 1, 0, 1, 1, 1, 1], np.float32),
        "answers": np.arange(NUM_ROWS, dtype=np.int32) - 1,
        "follows": np.asarray([0, 1, 1, 0, 0, 1, 0, 1], np.int32),
    }


def program_of(name: str, sizes: tuple[int, int, int], accumulate: int = 1) -> tuple[Program, Mesh]:
    model, objective = OBJECTIVES[name]
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    sharding = rules.batch_sharding(mesh)
    spec = {key: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for key, x in batch_of().items()}
    with jax.set_mesh(mesh):
        train = TrainConfig(num_steps=10, accumulate=accumulate)
        return build_program(model.build, objective.build(), toy.SGD, train, mesh, spec), mesh


def gradient_of(name: str, sizes: tuple[int, int, int], accumulate: int = 1) -> Any:
    """(gradient, loss and its terms) of a step."""
    program, mesh = program_of(name, sizes, accumulate)
    with jax.set_mesh(mesh):
        state = program.init()
        batch = jax.device_put(batch_of(), rules.batch_sharding(mesh))
        gradient = jax.jit(gradients.make_gradient(program.model.graphdef, program.objective, accumulate))
        grads, loss, _ = gradient(moved(state.params), batch, taught(state.objective), jax.random.key(0))
        return jax.device_get((grads, loss))


def taught(state: Any) -> Any:
    """With a teacher of its own mind, halfway to where its targets count in full."""
    if "teacher" not in state:
        return state
    step = jax.device_put(jnp.full_like(state["step"], 2), state["step"].sharding)
    return {**state, "teacher": moved(state["teacher"], seed=2), "step": step}


def moved(params: Any, seed: int = 1) -> Any:
    """Parameters away from where they are born, where right and wrong pairs look alike and their gradients cancel."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jax.device_put(np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32), x.sharding), params
    )


@functools.cache
def on_one_device(name: str) -> Any:
    return gradient_of(name, (1, 1, 1))


# One in which an axis has one device, as most have, and one in which none has.
SHORT = [("albef", (8, 1, 1)), ("uniter", (2, 2, 2))]
LONG = [
    *(("albef", sizes) for sizes in ((2, 4, 1), (2, 2, 2))),
    *(("uniter", sizes) for sizes in ((8, 1, 1), (2, 4, 1))),
    *((name, sizes) for name in ("lxmert", "visual_bert") for sizes in ((8, 1, 1), (2, 4, 1), (2, 2, 2))),
    ("drawn", (2, 2, 2)),
]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [*SHORT, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)],
    ids=str,
)
def test_every_mesh_gives_what_one_device_gives(name: str, sizes: tuple[int, int, int]) -> None:
    (grads, loss), (expected_grads, expected) = gradient_of(name, sizes), on_one_device(name)
    if "align" in loss.terms:
        # Distances of right pairs less those of wrong ones, of which little is left.
        found, wanted = loss.terms.pop("align"), {**expected.terms}.pop("align")
        assert float(found.sum) == pytest.approx(float(wanted.sum), abs=LAYER * float(wanted.count))
        expected = expected._replace(terms={k: v for k, v in expected.terms.items() if k != "align"})
    assert above(relative_errors((grads, loss), (expected_grads, expected)), LAYER) == {}


def test_microbatches_give_the_gradient_of_the_whole_batch() -> None:
    """Of what is not drawn for each example, as masks are: contrast, and matches with the whole batch's negatives."""
    grads, loss = gradient_of("undrawn", (2, 1, 1), accumulate=2)
    expected_grads, expected = on_one_device("undrawn")
    assert above(relative_errors(loss.total.value, expected.total.value), LAYER) == {}
    assert above(relative_errors(grads, expected_grads), LAYER) == {}


@functools.cache
def model_of(name: str) -> Fusion:
    return OBJECTIVES[name][0].build(jax.random.key(0))


def step_of(name: str) -> tuple[Fusion, Any, Any, Any]:
    """A model, what it made of the batch, its loss, and the batch."""
    fusion, batch = model_of(name), {key: jnp.asarray(x) for key, x in batch_of().items()}
    built = OBJECTIVES[name][1].build()
    embeddings = built.encode(fusion, batch, jax.random.key(1))
    loss, _ = built.loss(fusion, embeddings, batch, {}, jax.random.key(2))
    return fusion, embeddings, loss, batch


def test_terms_are_the_losses_they_are_named_after() -> None:
    """UNITER's, each as a pass of its own gives it, while the step makes one of all."""
    fusion, embeddings, loss, batch = step_of("uniter")
    hidden, labels = embeddings["hidden"], np.asarray(embeddings["labels"])
    _, masked = fusion(batch, masked=hidden)
    regions = {
        "region_features": feature_regression(masked["features"], batch["region_features"], hidden, batch["weights"]),
        "region_divergence": class_divergence(
            masked["classes"], batch["region_probabilities"], hidden, batch["weights"]
        ),
    }
    for name, mean in regions.items():
        assert above(relative_errors(loss.terms[name], mean), LAYER) == {}
    logits = fusion.token_head(fusion.fuse(embeddings["text masked"], embeddings["image plain"]).text, fusion.text)
    shares = jax.nn.log_softmax(np.asarray(logits, np.float64))
    counted = (labels >= 0) & (np.asarray(batch["weights"])[:, None] > 0)
    picked = np.take_along_axis(np.asarray(shares), np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    assert float(loss.terms["tokens"].value) == pytest.approx(-picked[counted].mean(), rel=LAYER)
    assert float(loss.terms["tokens_accuracy"].value) == (np.asarray(logits).argmax(-1) == labels)[counted].mean()
    config = OBJECTIVES["uniter"][1]
    total = sum(term.weight * float(loss.terms[name].value) for name, term in config.terms.items())
    assert float(loss.total.value) == pytest.approx(total, rel=LAYER)


def test_lxmert_predicts_what_the_detector_said_and_the_answer() -> None:
    """Objects of all regions, as far as the detector was sure; attributes and features of hidden ones."""
    fusion, embeddings, loss, batch = step_of("lxmert")
    streams = fusion.fuse(embeddings["text masked"], embeddings["image masked"])
    found, weights, hidden = fusion.region_outputs(streams.image), batch["weights"], embeddings["hidden"]
    objects = batch["region_objects"], batch["region_mask"], weights, batch["region_objects_confidence"]
    expected = {
        "region_objects": class_cross_entropy(found["objects"], *objects),
        "region_attributes": class_cross_entropy(found["attributes"], batch["region_attributes"], hidden, weights),
        "region_features": smooth_feature_regression(found["features"], batch["region_features"], hidden, weights),
        "answers": answer_cross_entropy(
            fusion.answer_head(fusion.pool(streams)["text"]), jnp.asarray(batch["answers"]), weights
        ),
    }
    for name, mean in expected.items():
        assert above(relative_errors(loss.terms[name], mean), LAYER) == {}
    # One of eight has no answer, another no weight.
    assert float(loss.terms["answers"].count) == 6


def test_an_objective_says_which_fields_it_reads() -> None:
    model, objective = OBJECTIVES["lxmert"]
    assert objective.fields(model) == {
        "answers": None,
        "region_features": 16,
        "region_objects": None,
        "region_objects_confidence": None,
        "region_attributes": None,
    }
    assert OBJECTIVES["uniter"][1].fields(UNITER) == {"region_features": 16, "region_probabilities": 8}
    assert OBJECTIVES["albef"][1].fields(ALBEF) == {}


def test_negatives_are_drawn_by_the_scale_of_the_contrast() -> None:
    """Its bound included, by which reranking goes too."""
    objective = FusionObjectiveConfig(contrast=ContrastTerm(largest_scale=50.0), match=MatchTerm())
    scales = [float(objective.similarity_scale({"log_scale": jnp.log(scale)})) for scale in (20.0, 80.0)]
    assert scales == pytest.approx([20.0, 50.0])
    random = replace(objective, match=MatchTerm(negatives="random"))
    assert float(random.similarity_scale({"log_scale": jnp.zeros(())})) == 0


def test_the_bound_holds_where_negatives_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        used.append(float(arguments[2]))
        return sample_negatives(*arguments, **options)

    monkeypatch.setattr(fusion_step, "sample_negatives", spy)
    objective = FusionObjectiveConfig(contrast=ContrastTerm(largest_scale=50.0), match=MatchTerm()).build()
    fusion, batch = ALBEF.build(jax.random.key(0)), {key: jnp.asarray(x) for key, x in batch_of().items()}
    fusion.log_scale[...] = jnp.log(80.0)
    objective.loss(fusion, objective.encode(fusion, batch, None), batch, {}, jax.random.key(0))
    assert used == [pytest.approx(math.log(50.0))]


def two_pairs() -> Batch:
    """A batch of which two rows count: each is the only negative of the other."""
    batch = {key: jnp.asarray(x) for key, x in batch_of().items()}
    return batch | {"ids": jnp.asarray([0, 1] * 4), "weights": jnp.asarray([1, 1, 0, 0, 0, 0, 0, 0], jnp.float32)}


def rows_fused(name: str, config: FusionObjectiveConfig, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each time that the fusion runs in one step, the rows of both streams."""
    objective, fuse, seen = config.build(), Fusion.fuse, []

    def spy(self: Fusion, text: Any, image: Any, key: Any = None) -> Any:
        seen.append((len(text.tokens), len(image.tokens)))
        return fuse(self, text, image, key)

    monkeypatch.setattr(Fusion, "fuse", spy)
    fusion, batch = model_of(name), {key: jnp.asarray(x) for key, x in batch_of().items()}
    jax.eval_shape(
        lambda: objective.loss(fusion, objective.encode(fusion, batch, None), batch, {}, jax.random.key(0))[0]
    )
    return seen


@pytest.mark.parametrize(
    ("name", "num_pairs"),
    # Own and two negatives, masked words, masked patches; own and a negative, masked words, masked regions.
    [("albef", 5), ("uniter", 4)],
)
def test_the_fusion_sees_each_pair_once_and_all_together(
    name: str, num_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(OBJECTIVES[name][1], contrast=None, tokens=TokenTerm(**MASKING))
    assert rows_fused(name, config, monkeypatch) == [(num_pairs * NUM_ROWS, num_pairs * NUM_ROWS)]


def test_the_contrast_needs_no_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FusionObjectiveConfig(contrast=ContrastTerm())
    assert rows_fused("albef", config, monkeypatch) == []


def test_matches_are_of_pairs_and_of_others() -> None:
    """With one negative that is possible for each, the loss is that of rows put together by hand."""
    model, objective = ALBEF, FusionObjectiveConfig(match=MatchTerm())
    fusion, batch = model.build(jax.random.key(0)), two_pairs()
    # A head that says no to all pairs, so that what is right can be told from what is wrong.
    fusion.pair_head.bias[...] = jnp.asarray([1.0, 0.0])
    built = objective.build()
    embeddings = built.encode(fusion, batch, None)
    loss, _ = built.loss(fusion, embeddings, batch, {}, jax.random.key(0))
    swapped = jnp.asarray([1, 0, 2, 3, 4, 5, 6, 7])
    other = batch | {"image": batch["image"][swapped]}
    right, wrong = (fusion(rows)[1]["pair_logits"] for rows in (batch, other))
    judged = (right, 1), (wrong, 0), (wrong, 0)
    parts = [pair_cross_entropy(x, jnp.full(NUM_ROWS, matched), batch["weights"]) for x, matched in judged]
    # The text for an image is the other way round, and so the same two pairs.
    expected = sum(float(part.sum) for part in parts) / sum(float(part.count) for part in parts)
    assert float(loss.total.value) == pytest.approx(expected, rel=LAYER)
    accuracy = loss.terms["match_accuracy"]
    assert (float(accuracy.sum), float(accuracy.count)) == (4, 6)
    # Where all belong together nothing can be put beside a row that does not: right pairs alone count.
    alone, _ = built.loss(fusion, embeddings, batch | {"ids": batch["ids"] * 0}, {}, jax.random.key(0))
    assert float(alone.terms["match_accuracy"].count) == 2
    assert above(relative_errors(alone.total.value, parts[0].value), LAYER) == {}


def test_a_choice_is_between_a_pair_and_each_negative() -> None:
    """Of the same two pairs: it comes to the match, times what it counts."""
    fusion, batch = ALBEF.build(jax.random.key(0)), two_pairs()
    plain, chosen = (FusionObjectiveConfig(match=MatchTerm(choice=choice)).build() for choice in (0.0, 3.0))
    embeddings = plain.encode(fusion, batch, None)
    without, found = (x.loss(fusion, embeddings, batch, {}, jax.random.key(0))[0].terms for x in (plain, chosen))
    logits = fusion(batch)[1]["pair_logits"], fusion(batch | {"image": batch["image"][jnp.asarray([1, 0] * 4)]})[1]
    right, wrong = (np.asarray(x, np.float64) @ [-1, 1] for x in (logits[0], logits[1]["pair_logits"]))
    # Row 1 of the wrong ones is text 1 beside image 0: the other text of image 0, and the other image of text 1.
    choices = [np.log1p(np.exp(wrong[w] - right[r])) for r, w in ((0, 0), (1, 1), (0, 1), (1, 0))]
    assert float(found["match"].value) == pytest.approx(float(without["match"].value) + 3 * np.mean(choices), rel=LAYER)
    assert float(found["match_accuracy"].value) == float(without["match_accuracy"].value)


def test_words_come_close_to_their_image_and_part_from_another() -> None:
    objective = FusionObjectiveConfig(match=MatchTerm(negatives="random"), align=AlignTerm())
    fusion, batch = model_of("uniter"), two_pairs()
    built = objective.build()
    loss, _ = built.loss(fusion, built.encode(fusion, batch, None), batch, {}, jax.random.key(0))
    swapped = jnp.asarray([1, 0, 2, 3, 4, 5, 6, 7])
    image = fusion.encode_image(batch)
    parts = []
    for matched, rows in ((True, jnp.arange(NUM_ROWS)), (False, swapped)):
        beside = image._replace(tokens=image.tokens[rows], mask=image.mask[rows])
        streams = fusion.fuse(fusion.encode_text(batch["text_ids"], batch["text_mask"]), beside)
        masks = batch["text_mask"], beside.mask
        parts.append(word_region_alignment(*streams, *masks, jnp.full(NUM_ROWS, matched), batch["weights"]))
    assert above(relative_errors(loss.terms["align"], parts[0].merge(parts[1])), LAYER) == {}


@pytest.mark.parametrize("everywhere", [False, True])
def test_pixels_are_of_the_patches_behind_the_class_token(everywhere: bool) -> None:
    objective = FusionObjectiveConfig(regions=(RegionTerm(kind="pixels", rate=0.5, everywhere=everywhere),))
    fusion, batch = model_of("albef"), {key: jnp.asarray(x) for key, x in batch_of().items()}
    built = objective.build()
    embeddings = built.encode(fusion, batch, jax.random.key(1))
    loss, _ = built.loss(fusion, embeddings, batch, {}, None)
    image = fusion.fuse(embeddings["text plain"], embeddings["image masked"]).image
    assert image.shape[1] == 1 + embeddings["hidden"].shape[1]
    predicted, hidden = fusion.region_outputs(image[:, 1:])["pixels"], embeddings["hidden"]
    target = normalised_patches(fusion.image.pixels(batch))
    counted = jnp.ones_like(hidden) if everywhere else hidden
    expected = feature_regression(predicted, target, counted, batch["weights"])
    assert above(relative_errors(loss.terms["region_pixels"], expected), LAYER) == {}


def test_the_contrast_is_that_of_the_towers() -> None:
    fusion, _, loss, batch = step_of("undrawn")
    image, text = fusion.image_embed(batch), fusion.text_embed(batch["text_ids"], batch["text_mask"])
    expected = contrastive(image, text, fusion.log_scale[...], None, batch["ids"], batch["weights"], kind="softmax")
    assert above(relative_errors(loss.terms["contrast"], expected), LAYER) == {}


def test_what_is_hidden_is_there_and_never_nothing() -> None:
    _, embeddings, _, batch = step_of("uniter")
    hidden, there = np.asarray(embeddings["hidden"]), np.asarray(batch["region_mask"])
    assert not (hidden & ~there).any()
    assert hidden.any(axis=1).all()
    assert not hidden.all()


def test_one_term_is_drawn_in_proportion_to_its_weight() -> None:
    model, objective = OBJECTIVES["drawn"]
    objective = replace(objective, match=replace(objective.match, weight=3.0))
    fusion, batch = model.build(jax.random.key(0)), {key: jnp.asarray(x) for key, x in batch_of().items()}
    built = objective.build()
    embeddings = built.encode(fusion, batch, None)
    graph, state = nnx.split(fusion)

    @jax.jit
    def loss(key: Any) -> Any:
        return built.loss(nnx.merge(graph, state), embeddings, batch, {}, key)[0]

    losses = [jax.device_get(loss(jax.random.key(number))) for number in range(60)]
    drawn = [[name for name in objective.terms if float(found.terms[name].count) > 0] for found in losses]
    assert {tuple(names) for names in drawn} == {("tokens",), ("match", "align")}
    for found in losses:
        values = {name: float(found.terms[name].value) for name in objective.terms}
        total = values["tokens"] + values["match"] + objective.align.weight * values["align"]
        assert float(found.total.value) == pytest.approx(total, rel=LAYER)
    # Of 60 draws 45 are expected for the match, with a deviation of 3.4.
    assert 35 <= sum("match" in names for names in drawn) <= 55


def test_the_teacher_follows_and_its_queue_fills() -> None:
    program, mesh = program_of("albef", (1, 1, 1))
    with jax.set_mesh(mesh):
        state = program.init()
        moved = jax.tree.map(lambda x: x + 1, state.params)
        built = OBJECTIVES["albef"][1].build()
        batch = jax.device_put(batch_of(), rules.batch_sharding(mesh))

        def step(params: Any, carried: Any) -> Any:
            model = nnx.merge(program.model.graphdef, params)
            return built.loss(model, built.encode(model, batch, None), batch, carried, None)[1]

        after = jax.device_get(jax.jit(step)(moved, state.objective))
    assert int(after["step"]) == 1
    assert after["queue"].weights.sum() == batch_of()["weights"].sum()
    assert after.keys() == {"teacher", "queue", "step"}
    before, halfway = jax.device_get(state.objective["teacher"]), after["teacher"]
    np.testing.assert_allclose(halfway["log_scale"], before["log_scale"] + 0.5, rtol=1e-6)


def test_the_teacher_says_how_likely_other_words_are() -> None:
    """With the share that the queue's step gives it, of the same masked text beside the whole image."""
    model, objective = OBJECTIVES["albef"]
    fusion, batch = model.build(jax.random.key(0)), {key: jnp.asarray(x) for key, x in batch_of().items()}
    built = objective.build()
    teacher = moved(nnx.to_pure_dict(nnx.split(fusion)[1]))
    spec = {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in batch.items()}
    state = {**built.init_state(fusion, spec), "teacher": teacher, "step": jnp.asarray(2)}
    embeddings = built.encode(fusion, batch, jax.random.key(1))
    loss, after = built.loss(fusion, embeddings, batch, state, None)
    taught: Fusion = nnx.merge(nnx.split(fusion)[0], after["teacher"])
    labels, counted = np.asarray(embeddings["labels"]), np.asarray(batch["weights"])[:, None] > 0
    logits = []
    for who in (fusion, taught):
        masked = who.encode_text(embeddings["masked ids"], batch["text_mask"])
        logits.append(np.float64(who.token_head(who.fuse(masked, who.encode_image(batch)).text, who.text)))
    log_shares, targets = (np.asarray(jax.nn.log_softmax(x)) for x in logits)
    # Two of four steps: half of the teacher's 0.4.
    aims = 0.2 * np.exp(targets) + 0.8 * np.eye(100)[np.maximum(labels, 0)]
    expected = -np.sum(aims * log_shares, axis=-1)[(labels >= 0) & counted].mean()
    assert float(loss.terms["tokens"].value) == pytest.approx(expected, rel=LAYER)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (FusionObjectiveConfig(contrast=ContrastTerm()), "objective needs model.embed_dim"),
        (FusionObjectiveConfig(match=MatchTerm()), "objective needs model.embed_dim"),
        (FusionObjectiveConfig(answers=AnswerTerm()), "objective needs model.heads.num_answers"),
        (FusionObjectiveConfig(regions=(RegionTerm(kind="pixels"),)), "objective needs an image of PatchInputConfig"),
        (ContrastiveConfig(), "trains a dual encoder, not a FusionConfig"),
    ],
    ids=str,
)
def test_a_model_without_the_head_is_refused(objective: ObjectiveConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective.check_model(UNITER)


def test_an_image_of_one_patch_has_nothing_to_guess_it_from() -> None:
    image = PatchInputConfig(SIZE.width, image_size=16, patch_size=8)
    head = HeadsConfig(regions=(RegionHeadConfig((("pixels", 3 * 8 * 8),)),))
    model = replace(published.vilt(SIZE, WORDS, image_size=16, patch_size=8), image=image, heads=head)
    objective = FusionObjectiveConfig(regions=(RegionTerm(kind="pixels"),))
    objective.check_model(model)
    with pytest.raises(UserError, match="several patches, which the model lacks"):
        objective.check_model(replace(model, image=replace(image, patch_size=16)))


def test_texts_alone_have_masked_words_and_what_follows() -> None:
    model = published.bert(SIZE, WORDS)
    objective = FusionObjectiveConfig(tokens=TokenTerm(**MASKING), follows=FollowTerm())
    with pytest.raises(UserError, match=r"objective needs model\.image, which the model lacks"):
        FusionObjectiveConfig(match=MatchTerm(negatives="random")).check_model(model)
    objective.check_model(model)
    fusion, batch, built = model.build(jax.random.key(0)), batch_of(), objective.build()
    batch |= {"token_types": (np.arange(8) > 3) * np.ones((NUM_ROWS, 1), np.int32)}
    embeddings = built.encode(fusion, batch, None)
    loss, _ = built.loss(fusion, embeddings, batch, {}, None)
    masked = batch | {"text_ids": embeddings["masked ids"]}
    streams, outputs = fusion(masked)
    followed = pair_cross_entropy(outputs["pair_logits"], batch["follows"], batch["weights"])
    assert above(relative_errors(loss.terms["follows"], followed), LAYER) == {}
    logits = np.float64(fusion.token_head(streams.text, fusion.text))
    labels, counted = np.asarray(embeddings["labels"]), batch["weights"][:, None] > 0
    picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.maximum(labels, 0)[..., None], axis=-1)
    expected = -picked[..., 0][(labels >= 0) & counted].mean() + float(followed.value)
    assert float(loss.total.value) == pytest.approx(expected, rel=LAYER)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (FusionObjectiveConfig, "has no term"),
        (lambda: FusionObjectiveConfig(align=AlignTerm()), "needs objective.match"),
        (
            lambda: FusionObjectiveConfig(regions=(RegionTerm(rate=0.1), RegionTerm(kind="classes", rate=0.2))),
            "give all of them one rate",
        ),
        (lambda: MatchTerm(weight=0.0), "must be above 0"),
        (lambda: MatchTerm(choice=-1.0), "choice -1.0 of MatchTerm must be at least 0"),
        (lambda: FusionObjectiveConfig(match=MatchTerm(), follows=FollowTerm()), "read the same head"),
        (lambda: TokenTerm(text="plain"), "need a text that is masked"),
        (lambda: TokenTerm(distilled=True, image="masked"), "sees the whole image"),
        (lambda: FusionObjectiveConfig(tokens=TokenTerm(distilled=True)), "nobody teaches: set objective.contrast"),
        (lambda: RegionTerm(image="plain"), "need an image that is masked"),
        (lambda: RegionTerm(rate=1.0), r"not in \(0, 1\)"),
        (lambda: RegionTerm(target="objects"), "target and confidence of RegionTerm are for classes"),
        (lambda: RegionTerm(kind="classes", smooth=True), "smooth of RegionTerm is for features"),
        (
            lambda: FusionObjectiveConfig(regions=(RegionTerm(), RegionTerm(smooth=True))),
            "two terms of one kind",
        ),
        (lambda: ContrastTerm(momentum=1.0), r"momentum in \[0, 1\)"),
    ],
)
def test_terms_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_where_nothing_is_said_of_a_pair_there_is_nothing_to_evaluate() -> None:
    data = DataConfig(text_len=8, batch_size=8, regions=RegionsConfig(feature_dim=16))
    objective = FusionObjectiveConfig(tokens=TokenTerm(**MASKING))
    experiment = Experiment(UNITER, data, objective=objective)
    assert from_values(experiment.to_dict()) == experiment
    evaluated = replace(experiment, evals=EvalsConfig(splits=("test",)))
    assert from_values(evaluated.to_dict()) == evaluated
    mute = replace(UNITER, heads=HeadsConfig(tokens=False, num_pair_classes=0, regions=UNITER.heads.regions))
    regions = FusionObjectiveConfig(regions=(RegionTerm(),))
    with pytest.raises(UserError, match=r"neither embeds .* nor says anything of a pair: leave evals\.splits out"):
        from_values(replace(evaluated, model=mute, objective=regions).to_dict())


def test_it_is_written_and_read_as_any_config() -> None:
    for _, objective in OBJECTIVES.values():
        values = config.to_dict(objective, ObjectiveConfig)
        assert config.from_dict(ObjectiveConfig, values) == objective
