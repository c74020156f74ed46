"""Pretraining of models in which text and image attend to each other: terms that are summed, or drawn one a step."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import DTypeLike

from mmjax.errors import UserError
from mmjax.losses import contrastive
from mmjax.losses.info_nce import clamped_log_scale
from mmjax.losses.momentum import Queue, momentum_contrastive
from mmjax.losses.pairs import answer_cross_entropy, pair_cross_entropy
from mmjax.losses.regions import (
    class_cross_entropy,
    class_divergence,
    feature_regression,
    normalised_patches,
    smooth_feature_regression,
)
from mmjax.losses.tokens import TokenTeacher, token_cross_entropy
from mmjax.losses.transport import word_region_alignment
from mmjax.models.base import ModelConfig
from mmjax.models.fusion.model import Fusion, FusionConfig, Tokens
from mmjax.models.fusion.patches import PatchInput, PatchInputConfig
from mmjax.nn.bimodal import Streams
from mmjax.nn.dropout import split
from mmjax.nn.parameter import weight
from mmjax.objectives.base import Embeddings, ObjectiveConfig, ObjectiveState
from mmjax.objectives.fusion_terms import (
    AlignTerm,
    AnswerTerm,
    ContrastTerm,
    FollowTerm,
    Form,
    MatchTerm,
    RegionTerm,
    TermConfig,
    TokenTerm,
)
from mmjax.objectives.masking import Vocabulary, mask_tokens
from mmjax.objectives.negatives import Negatives, sample_negatives
from mmjax.parallel import rules
from mmjax.parallel.exchange import take_rows
from mmjax.types import Array, Batch, BatchSpec, Key, Loss, Mean, Params

Partner = Literal["own", "other image", "other text"]
Terms = dict[str, Mean]


@dataclass(frozen=True)
class FusionObjectiveConfig(ObjectiveConfig):
    """The terms, at most one of each kind but regions.

    mix: "sum" adds all, each times its weight; "draw" takes one a step, with probabilities in proportion to the weights
        (UNITER, Chen et al., 2020, section 3.3), and reports the others as 0. The alignment comes with the match, of
        which it has the pairs, times its weight.
    """

    contrast: ContrastTerm | None = None
    match: MatchTerm | None = None
    tokens: TokenTerm | None = None
    regions: tuple[RegionTerm, ...] = ()
    align: AlignTerm | None = None
    answers: AnswerTerm | None = None
    follows: FollowTerm | None = None
    mix: Literal["sum", "draw"] = "sum"

    def __post_init__(self) -> None:
        if not self.terms:
            raise UserError("objective has no term: give it tokens, match, contrast, regions, align or answers")
        if len({term.name for term in self.regions}) < len(self.regions):
            raise UserError("objective.regions has two terms of one kind: give each a kind or a target of its own")
        if len({term.rate for term in self.regions}) > 1:
            raise UserError("objective.regions hide the same regions: give all of them one rate")
        if self.tokens is not None and self.tokens.distilled and not (self.contrast and self.contrast.queue_batches):
            raise UserError("objective.tokens is distilled, but nobody teaches: set objective.contrast.queue_batches")
        if self.follows is not None and self.match is not None:
            raise UserError("objective.follows and objective.match read the same head: leave one of them out")
        if self.align is not None and self.match is None:
            raise UserError("objective.align compares pairs with others: it needs objective.match, which draws them")

    @property
    def terms(self) -> dict[str, TermConfig]:
        """By name, those that there are."""
        single = {
            "contrast": self.contrast,
            "match": self.match,
            "tokens": self.tokens,
            "align": self.align,
            "answers": self.answers,
            "follows": self.follows,
        }
        regions = {term.name: term for term in self.regions}
        return {name: term for name, term in {**single, **regions}.items() if term is not None}

    @property
    def vocabulary(self) -> tuple[int, tuple[int, ...]] | None:
        return None if self.tokens is None else (self.tokens.mask_id, self.tokens.special_ids)

    @property
    def draws(self) -> dict[str, tuple[str, ...]]:
        """The terms that one of them brings when it is drawn, itself the first."""
        alone: dict[str, tuple[str, ...]] = {name: (name,) for name in self.terms if name != "align"}
        return alone | {"match": ("match", "align")} if self.align is not None else alone

    def fields(self, model: ModelConfig) -> dict[str, int | None]:
        """See `ObjectiveConfig`."""
        assert isinstance(model, FusionConfig), "checked by check_model"
        sizes = dict(output for head in model.heads.regions for output in head.outputs)
        wanted: dict[str, int | None] = {
            name: None for name in ("answers", "follows") if getattr(self, name) is not None
        }
        for term in self.regions:
            wanted |= dict.fromkeys(term.fields)
            if term.kind in ("features", "divergence"):
                wanted[term.fields[0]] = sizes[term.output]
        return wanted

    def similarity_scale(self, params: Params) -> Array:
        """That of the contrast, in proportion to which hard negatives are drawn; 0 for random ones."""
        if self.match is None or self.match.negatives != "hard":
            return jnp.zeros(())
        return jnp.exp(params["log_scale"])

    def check_model(self, model: ModelConfig) -> None:
        """See `ObjectiveConfig`: each term has the head that it reads."""
        if not isinstance(model, FusionConfig):
            raise UserError("this objective trains a fusion model: give it a FusionConfig, or another objective")
        heads = model.heads
        outputs = {name for head in heads.regions for name, _ in head.outputs}
        hard = self.match is not None and self.match.negatives == "hard"
        wants = {
            "model.image": (
                bool(self.regions) or any((self.contrast, self.match, self.align)),
                model.image is not None,
            ),
            "model.embed_dim": (self.contrast is not None or hard, model.embed_dim > 0),
            "model.heads.num_pair_classes = 2": (
                self.match is not None or self.follows is not None,
                heads.num_pair_classes == 2,
            ),
            "model.heads.tokens": (self.tokens is not None, heads.tokens),
            "model.heads.num_answers": (self.answers is not None, heads.num_answers > 0),
            "an image of PatchInputConfig": (
                any(term.kind == "pixels" for term in self.regions),
                isinstance(model.image, PatchInputConfig),
            ),
        }
        for term in self.regions:
            wants[f"a region head with {term.output!r}"] = True, term.output in outputs
        for what, (wanted, there) in wants.items():
            if wanted and not there:
                raise UserError(f"objective needs {what}, which the model lacks: add it, or leave the term out")

    def build(self) -> "FusionObjective":
        return FusionObjective(self)


@dataclass(frozen=True)
class FusionObjective:
    """See `FusionObjectiveConfig`."""

    config: FusionObjectiveConfig

    @property
    def decomposes(self) -> bool:
        return False

    def init_state(self, model: Fusion, batch_spec: BatchSpec) -> ObjectiveState:
        """Empty without a teacher; with one `teacher`, `queue` and `step` as in `Momentum`."""
        contrast = self.config.contrast
        if contrast is None or not contrast.queue_batches:
            return {}
        size = next(iter(batch_spec.values())).shape[0]
        queue = Queue.empty(contrast.queue_batches, size, model.config.embed_dim)
        return {"teacher": jax.tree.map(jnp.copy, _params(model)), "queue": queue, "step": jnp.zeros((), jnp.int32)}

    def encode(self, model: Fusion, batch: Batch, key: Key | None) -> Embeddings:
        """Both streams behind their towers in every form that a term wants, what is hidden in them, and where it is."""
        text_key, masked_text_key, image_key, masked_image_key, hide_key, mask_key = split(key, 6)
        found: dict[str, Any] = {}
        types = batch.get("token_types")
        if "plain" in self._forms("text"):
            found["text plain"] = model.encode_text(batch["text_ids"], batch["text_mask"], text_key, types)
        if "plain" in self._forms("image") and model.image is not None:
            found["image plain"] = model.encode_image(batch, image_key)
        if "masked" in self._forms("text"):
            ids, found["labels"] = self._masked_text(model, batch, _key(mask_key))
            found["text masked"] = model.encode_text(ids, batch["text_mask"], masked_text_key, types)
            found["masked ids"] = ids
        if "masked" in self._forms("image"):
            found["hidden"] = self._hidden(model, batch, _key(hide_key))
            found["image masked"] = model.encode_image(batch, masked_image_key, found["hidden"])
        return found

    def teach(self, model: Fusion, batch: Batch, state: ObjectiveState) -> Embeddings:
        """The teacher's `image` and `text` (b, e), without dropout; and, of `masked_ids` in the batch, its `words`:
        what its head makes of each token (b, t, d), before the table."""
        if "teacher" not in state:
            return {}
        teacher = _teacher(model, state)
        ids, mask, types = batch["text_ids"], batch["text_mask"], batch.get("token_types")
        image, text = teacher.encode_image(batch), teacher.encode_text(ids, mask, token_types=types)
        found = {"image": teacher.embed_image(image), "text": teacher.embed_text(text)}
        if self.config.tokens is not None and self.config.tokens.distilled:
            masked = teacher.encode_text(batch.get("masked_ids", ids), mask, token_types=types)
            fused = teacher.fuse(masked, image).text
            assert fused is not None
            assert teacher.token_head is not None
            found["words"] = teacher.token_head.transform(fused)
        return jax.lax.stop_gradient(found)

    def loss(
        self, model: Fusion, embeddings: Embeddings, batch: Batch, state: ObjectiveState, key: Key | None
    ) -> tuple[Loss, ObjectiveState]:
        """The sum of all terms, or the one that is drawn."""
        draw_key, step_key = jax.random.split(_key(key))
        state = self._taught(model, embeddings, batch, state)
        step = _Step(self.config, model, embeddings, batch, state, step_key if key is not None else None)
        terms = self.config.terms
        values = step.together(list(terms)) if self.config.mix == "sum" else self._drawn(step, draw_key)
        factors = {name: term.weight for name, term in terms.items()}
        if self.config.mix == "draw":
            factors |= dict.fromkeys(self.config.draws, 1.0)
        total = sum((factor * values[name].value for name, factor in factors.items()), jnp.zeros(()))
        next_state = {**state, "step": state["step"] + 1} if "step" in state else state
        return Loss(Mean(total, jnp.ones(())), values), {k: v for k, v in next_state.items() if k != "taught"}

    def _drawn(self, step: "_Step", key: Key) -> Terms:
        terms, draws = self.config.terms, self.config.draws
        shares = jnp.log(jnp.asarray([terms[name].weight for name in draws], jnp.float32))
        everything = jax.eval_shape(lambda: step.together(list(terms)))
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), everything)

        def branch(names: tuple[str, ...]) -> Callable[[], Terms]:
            return lambda: nothing | step.together(list(names))

        return jax.lax.switch(jax.random.categorical(key, shares), [branch(names) for names in draws.values()])

    def _taught(self, model: Fusion, embeddings: Embeddings, batch: Batch, state: ObjectiveState) -> ObjectiveState:
        """The state with the teacher moved, and what it makes of the batch in the queue."""
        if "teacher" not in state:
            return state
        contrast = self.config.contrast
        assert contrast is not None
        params = jax.lax.stop_gradient(_params(model))
        teacher = optax.incremental_update(params, state["teacher"], 1 - contrast.momentum)
        state = {**state, "teacher": teacher}
        masked = {"masked_ids": embeddings["masked ids"]} if "masked ids" in embeddings else {}
        taught = self.teach(model, {**batch, **masked}, state)
        queue = state["queue"].push(taught["image"], taught["text"], batch["ids"], batch["weights"])
        return {**state, "queue": queue, "taught": taught}

    def _forms(self, stream: Literal["text", "image"]) -> set[Form]:
        """The forms of a stream that are wanted; negatives of a match are found by plain ones."""
        forms: set[Form] = {getattr(term, stream) for term in self.config.terms.values()}
        hard = self.config.match is not None and self.config.match.negatives == "hard"
        return forms | {"plain"} if hard else forms

    def _masked_text(self, model: Fusion, batch: Batch, key: Key) -> tuple[Array, Array]:
        term = self.config.tokens or TokenTerm()
        vocabulary: Vocabulary = term.vocabulary(model.config.text.vocab_size)
        return mask_tokens(
            batch["text_ids"], batch["text_mask"], key, term.masking, vocabulary, batch.get("word_starts")
        )

    def _hidden(self, model: Fusion, batch: Batch, key: Key) -> Array:
        """Bool (b, p), True for what is hidden: each region with a probability, and at least one of each image."""
        assert model.config.image is not None
        rate = self.config.regions[0].rate if self.config.regions else 0.15
        num_parts = model.config.image.num_parts
        # Regions there are as many as the detector found, patches always the same number.
        there = batch["region_mask"] if num_parts is None else None
        num_parts = num_parts or batch["region_mask"].shape[1]
        draws = jax.random.uniform(key, (len(batch["text_ids"]), num_parts), out_sharding=rules.spec("bp"))
        draws = draws if there is None else jnp.where(there, draws, 2.0)
        return (draws < rate) | ((draws == jnp.min(draws, axis=1, keepdims=True)) & (draws < 1))


class _Step:
    """One step's passes through the fusion, each made once, and the terms that are read from them."""

    def __init__(
        self,
        config: FusionObjectiveConfig,
        model: Fusion,
        embeddings: Any,
        batch: Batch,
        state: ObjectiveState,
        key: Key | None,
    ):
        self._config, self._model, self._batch, self._state = config, model, batch, state
        self._embeddings, self._key = embeddings, key
        self._passes: dict[tuple[Form, Form, Partner], Streams] = {}
        self._negatives: Negatives | None = None

    def together(self, names: list[str]) -> Terms:
        """These terms; passes are shared among them, and forgotten afterwards, as they may be of one branch alone."""
        self._passes, self._negatives = {}, None
        found: Terms = {}
        for name in names:
            kind, _, _ = name.partition("_")
            found |= getattr(self, f"_{kind}")(name, self._config.terms[name])
        self._passes, self._negatives = {}, None
        return found

    def _contrast(self, name: str, term: ContrastTerm) -> Terms:
        model, batch = self._model, self._batch
        image, text = self._embeds()
        log_scale = clamped_log_scale(model.log_scale[...], term.largest_scale)
        if not term.queue_batches:
            bias = jnp.zeros(())
            mean = contrastive(image, text, log_scale, bias, batch["ids"], batch["weights"], kind="softmax")
            return {name: mean}
        taught = self._state["taught"]
        pushed = taught["image"], taught["text"], self._state["queue"]
        arguments = (log_scale, batch["ids"], batch["weights"])
        return {name: momentum_contrastive(image, text, *pushed, *arguments, distillation=self._share(term))}

    def _share(self, term: ContrastTerm) -> Array:
        """That of the targets which the teacher has by now."""
        share = jnp.asarray(term.distillation)
        if not term.distillation_steps:
            return share
        return share * jnp.minimum(1.0, self._state["step"] / term.distillation_steps)

    def _match(self, name: str, term: MatchTerm) -> Terms:
        partners: tuple[Partner, ...] = ("own", "other image")
        if term.negatives == "hard":
            partners = (*partners, "other text")
        losses, correct = [], []
        for partner in partners:
            streams = self._fused(term.text, term.image, partner)
            logits = self._model.pair_logits(streams, self._model.pool(streams), self._pass_key("head"))
            matched = jnp.full_like(self._batch["ids"], partner == "own")
            weights = self._batch["weights"] if partner == "own" else self._chosen().weights
            losses.append(pair_cross_entropy(logits, matched, weights))
            correct.append(Mean.of((jnp.argmax(logits, axis=-1) == matched).astype(jnp.float32), weights))
        return {name: _merged(losses), f"{name}_accuracy": _merged(correct)}

    def _tokens(self, name: str, term: TokenTerm) -> Terms:
        model = self._model
        text = self._fused(term.text, term.image, "own").text
        assert text is not None
        assert model.token_head is not None
        loss, correct = token_cross_entropy(
            model.token_head.transform(text),
            weight(model.text.tokens.table, text.dtype),
            weight(model.token_head.bias, text.dtype),
            self._embeddings["labels"],
            self._batch["weights"],
            vocab_size=model.config.text.vocab_size,
            chunk=term.chunk,
            max_labels=term.masking.max_labels,
            teacher=self._token_teacher(term, text.dtype),
        )
        return {name: loss, f"{name}_accuracy": correct}

    def _token_teacher(self, term: TokenTerm, dtype: DTypeLike) -> TokenTeacher | None:
        if not term.distilled:
            return None
        teacher = _teacher(self._model, self._state)
        assert teacher.token_head is not None
        assert self._config.contrast is not None
        return TokenTeacher(
            self._state["taught"]["words"],
            weight(teacher.text.tokens.table, dtype),
            weight(teacher.token_head.bias, dtype),
            self._share(self._config.contrast),
        )

    def _region(self, name: str, term: RegionTerm) -> Terms:
        hidden, batch = self._embeddings["hidden"], self._batch
        image = self._fused(term.text, term.image, "own").image
        assert image is not None
        # What stands before the regions, a class token or the whole image, is not predicted.
        predicted = self._model.region_outputs(image[:, -hidden.shape[1] :])[term.output]
        counted = batch["region_mask"] if term.everywhere and "region_mask" in batch else hidden | term.everywhere
        counts = counted, batch["weights"]
        match term.kind:
            case "features":
                regression = smooth_feature_regression if term.smooth else feature_regression
                return {name: regression(predicted, batch["region_features"], *counts)}
            case "classes":
                labels, *confidence = (batch[field] for field in term.fields)
                return {name: class_cross_entropy(predicted, labels, *counts, *confidence)}
            case "divergence":
                return {name: class_divergence(predicted, batch["region_probabilities"], *counts)}
            case "pixels":
                assert isinstance(self._model.image, PatchInput), "checked by check_model"
                return {
                    name: feature_regression(predicted, normalised_patches(self._model.image.pixels(batch)), *counts)
                }

    def _align(self, name: str, term: AlignTerm) -> Terms:
        return {name: _merged([self._alignment(term, partner) for partner in ("own", "other image")])}

    def _alignment(self, term: AlignTerm, partner: Partner) -> Mean:
        text, image = self._fused(term.text, term.image, partner)
        assert text is not None
        assert image is not None
        own = partner == "own"
        mask = self._tokens_of("image", term.image, partner).mask
        weights = self._batch["weights"] if own else self._chosen().weights
        everywhere = jnp.ones_like(image[..., 0], bool) if mask is None else mask
        matched = jnp.full_like(self._batch["ids"], own, dtype=bool)
        return word_region_alignment(text, image, self._batch["text_mask"], everywhere, matched, weights)

    def _follows(self, name: str, term: FollowTerm) -> Terms:
        streams = self._fused(term.text, term.image, "own")
        logits = self._model.pair_logits(streams, self._model.pool(streams), self._pass_key("head"))
        follows, weights = self._batch["follows"], self._batch["weights"]
        correct = Mean.of((jnp.argmax(logits, axis=-1) == follows).astype(jnp.float32), weights)
        return {name: pair_cross_entropy(logits, follows, weights), f"{name}_accuracy": correct}

    def _answers(self, name: str, term: AnswerTerm) -> Terms:
        streams = self._fused(term.text, term.image, "own")
        assert self._model.answer_head is not None
        logits = self._model.answer_head(self._model.pool(streams)["text"])
        return {name: answer_cross_entropy(logits, self._batch["answers"], self._batch["weights"])}

    def _fused(self, text: Form, image: Form, partner: Partner) -> Streams:
        wanted = text, image, partner
        if wanted not in self._passes:
            of_image = None if self._model.image is None else self._tokens_of("image", image, partner)
            tokens = self._tokens_of("text", text, partner), of_image
            self._passes[wanted] = self._model.fuse(*tokens, self._pass_key("/".join(wanted)))
        return self._passes[wanted]

    def _tokens_of(self, stream: Literal["text", "image"], form: Form, partner: Partner) -> Tokens:
        tokens: Tokens = self._embeddings[f"{stream} {form}"]
        if partner != f"other {stream}":
            return tokens
        chosen = self._chosen()
        indices = chosen.image_for_text if stream == "image" else chosen.text_for_image
        mask = {} if tokens.mask is None else {"mask": tokens.mask}
        taken = take_rows({"tokens": tokens.tokens, **mask}, indices)
        return Tokens(taken["tokens"], taken.get("mask"))

    def _chosen(self) -> Negatives:
        if self._negatives is None:
            assert self._config.match is not None
            batch, mode = self._batch, self._config.match.negatives
            hard = mode == "hard"
            # Drawn without looking, nothing of them is read.
            embeds = self._embeds() if hard else (batch["weights"][:, None],) * 2
            log_scale = self._model.log_scale[...] if hard else 0.0
            key = _key(self._pass_key("negatives"))
            self._negatives = sample_negatives(*embeds, log_scale, batch["ids"], batch["weights"], key, mode=mode)
        return self._negatives

    def _embeds(self) -> tuple[Array, Array]:
        """Of image and text (b, e)."""
        image, text = self._embeddings["image plain"], self._embeddings["text plain"]
        return self._model.embed_image(image), self._model.embed_text(text)

    def _pass_key(self, name: str) -> Key | None:
        """A key for each use, by its name."""
        return None if self._key is None else jax.random.fold_in(self._key, zlib.crc32(name.encode()))


def _key(key: Key | None) -> Key:
    """What is drawn even where nothing is dropped out."""
    return jax.random.key(0) if key is None else key


def _merged(means: list[Mean]) -> Mean:
    total = means[0]
    for mean in means[1:]:
        total = total.merge(mean)
    return total


def _teacher(model: Fusion, state: ObjectiveState) -> Fusion:
    teacher: Fusion = nnx.merge(nnx.split(model)[0], state["teacher"])
    return teacher


def _params(model: Fusion) -> Any:
    return nnx.to_pure_dict(nnx.split(model)[1])
