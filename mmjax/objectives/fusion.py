"""Pretraining of models in which text and image attend to each other: terms that are summed, or drawn one a step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mmjax.errors import UserError
from mmjax.losses.momentum import Queue
from mmjax.models.base import ModelConfig
from mmjax.models.fusion.model import Fusion, FusionConfig
from mmjax.models.fusion.patches import PatchInputConfig
from mmjax.nn.dropout import split
from mmjax.objectives.base import Embeddings, ObjectiveConfig, ObjectiveState
from mmjax.objectives.fusion_step import Step, Values, key_or_fixed, teacher_of
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
from mmjax.parallel import rules
from mmjax.types import Array, Batch, BatchSpec, Key, Loss, Mean, Params


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

    @property
    def matches(self) -> bool:
        return self.match is not None

    def similarity_scale(self, params: Params) -> Array:
        """That of the contrast, in proportion to which hard negatives are drawn; 0 for random ones."""
        if self.match is None or self.match.negatives != "hard":
            return jnp.zeros(())
        return jnp.exp((self.contrast or ContrastTerm()).bounded(params["log_scale"]))

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
            "an image of PatchInputConfig, of several patches": (
                any(term.kind == "pixels" for term in self.regions),
                isinstance(model.image, PatchInputConfig) and model.image.num_parts > 1,
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
            ids, found["labels"] = self._masked_text(model, batch, key_or_fixed(mask_key))
            found["text masked"] = model.encode_text(ids, batch["text_mask"], masked_text_key, types)
            found["masked ids"] = ids
        if "masked" in self._forms("image"):
            found["hidden"] = self._hidden(model, batch, key_or_fixed(hide_key))
            found["image masked"] = model.encode_image(batch, masked_image_key, found["hidden"])
        return found

    def teach(self, model: Fusion, batch: Batch, state: ObjectiveState) -> Embeddings:
        """The teacher's `image` and `text` (b, e), without dropout; and, of `masked_ids` in the batch, its `words`:
        what its head makes of each token (b, t, d), before the table."""
        if "teacher" not in state:
            return {}
        teacher = teacher_of(model, state)
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
        draw_key, step_key = jax.random.split(key_or_fixed(key))
        state = self._taught(model, embeddings, batch, state)
        terms = self.config.terms
        step = Step(terms, model, embeddings, batch, state, step_key if key is not None else None)
        values = step.together(list(terms)) if self.config.mix == "sum" else self._drawn(step, draw_key)
        factors = {name: term.weight for name, term in terms.items()}
        if self.config.mix == "draw":
            factors |= dict.fromkeys(self.config.draws, 1.0)
        total = sum((factor * values[name].value for name, factor in factors.items()), jnp.zeros(()))
        next_state = {**state, "step": state["step"] + 1} if "step" in state else state
        return Loss(Mean(total, jnp.ones(())), values), {k: v for k, v in next_state.items() if k != "taught"}

    def _drawn(self, step: Step, key: Key) -> Values:
        terms, draws = self.config.terms, self.config.draws
        shares = jnp.log(jnp.asarray([terms[name].weight for name in draws], jnp.float32))
        everything = jax.eval_shape(lambda: step.together(list(terms)))
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), everything)

        def branch(names: tuple[str, ...]) -> Callable[[], Values]:
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


def _params(model: Fusion) -> Any:
    return nnx.to_pure_dict(nnx.split(model)[1])
