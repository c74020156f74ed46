"""One step of a fusion model: one pass through the fusion, and every term that is read from it."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mmjax.losses import contrastive
from mmjax.losses.momentum import momentum_contrastive
from mmjax.losses.pairs import answer_cross_entropy, choice_cross_entropy, pair_cross_entropy
from mmjax.losses.regions import (
    class_cross_entropy,
    class_divergence,
    feature_regression,
    normalised_patches,
    smooth_feature_regression,
)
from mmjax.losses.tokens import TokenTeacher, token_cross_entropy
from mmjax.losses.transport import word_region_alignment
from mmjax.models.fusion.model import Fusion, Tokens
from mmjax.models.fusion.patches import PatchInput
from mmjax.nn.bimodal import Streams
from mmjax.nn.parameter import weight
from mmjax.objectives.base import ObjectiveState
from mmjax.objectives.fusion_terms import (
    AlignTerm,
    AnswerTerm,
    ContrastTerm,
    FollowTerm,
    Form,
    MatchTerm,
    Pair,
    Partner,
    RegionTerm,
    TermConfig,
    TokenTerm,
)
from mmjax.objectives.negatives import Negatives, sample_negatives
from mmjax.parallel import rules
from mmjax.parallel.exchange import take_rows
from mmjax.types import Array, Batch, Key, Mean

Values = dict[str, Mean]
"""What the terms came to, and what is counted beside them, by name."""


class Judged(NamedTuple):
    """Of the pair's head: the cross-entropy, how often it is right, and its log odds (b,)."""

    loss: Mean
    correct: Mean
    odds: Array


class Step:
    """One step's pass through the fusion, and the terms that are read from it.

    All that the terms want to see, an example's own text and image, masked or not, and either with a negative, lie
    beside each other in one batch: layers are compiled once, and each of their operations has more to do.
    """

    def __init__(
        self,
        terms: Mapping[str, TermConfig],
        model: Fusion,
        embeddings: Any,
        batch: Batch,
        state: ObjectiveState,
        key: Key | None,
    ):
        self._terms, self._model, self._batch, self._state = terms, model, batch, state
        self._embeddings, self._key = embeddings, key
        self._fused: dict[Pair, Streams] = {}
        self._negatives: Negatives | None = None

    def together(self, names: list[str]) -> Values:
        """These terms; what they share is forgotten afterwards, as it may be of one branch alone."""
        terms = {name: self._terms[name] for name in names}
        self._negatives = None
        self._fused = self._fuse(dict.fromkeys(term.pair(p) for term in terms.values() for p in term.partners))
        found: Values = {}
        for name, term in terms.items():
            kind, _, _ = name.partition("_")
            found |= getattr(self, f"_{kind}")(name, term)
        self._fused, self._negatives = {}, None
        return found

    def _fuse(self, pairs: Iterable[Pair]) -> dict[Pair, Streams]:
        """Both streams behind the fusion, of each of the pairs."""
        pairs = tuple(pairs)
        if not pairs:
            return {}
        text = _beside([self._tokens_of("text", pair.text, pair.partner) for pair in pairs])
        image = None
        if self._model.image is not None:
            image = _beside([self._tokens_of("image", pair.image, pair.partner) for pair in pairs])
        streams = self._model.fuse(text, image, self._pass_key("fusion"))
        return {pair: jax.tree.map(lambda x, i=i: x[:, i], _apart(streams, len(pairs))) for i, pair in enumerate(pairs)}

    def _contrast(self, name: str, term: ContrastTerm) -> Values:
        model, batch = self._model, self._batch
        image, text = self._embeds()
        log_scale = term.bounded(model.log_scale[...])
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

    def _match(self, name: str, term: MatchTerm) -> Values:
        ids = self._batch["ids"]
        judged = {p: self._judged(term, p, jnp.full_like(ids, p == "own")) for p in term.partners}
        loss, correct = _merged([x.loss for x in judged.values()]), _merged([x.correct for x in judged.values()])
        if term.choice:
            own, *others = (x.odds for x in judged.values())
            chosen = _merged([choice_cross_entropy(own, other, self._chosen().weights) for other in others])
            loss = Mean(loss.sum + term.choice * chosen.value * loss.count, loss.count)
        return {name: loss, f"{name}_accuracy": correct}

    def _judged(self, term: TermConfig, partner: Partner, labels: Array) -> Judged:
        """What the pair's head says of these pairs, where it should say `labels`."""
        weights = self._batch["weights"] if partner == "own" else self._chosen().weights
        streams = self._fused[term.pair(partner)]
        logits = self._model.pair_logits(streams, self._model.pool(streams), self._pass_key("head"))
        correct = Mean.of((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32), weights)
        return Judged(pair_cross_entropy(logits, labels, weights), correct, logits[:, 1] - logits[:, 0])

    def _tokens(self, name: str, term: TokenTerm) -> Values:
        model = self._model
        text = self._fused[term.pair()].text
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
        teacher = teacher_of(self._model, self._state)
        assert teacher.token_head is not None
        contrast = self._terms["contrast"]
        assert isinstance(contrast, ContrastTerm), "checked by FusionObjectiveConfig"
        return TokenTeacher(
            self._state["taught"]["words"],
            weight(teacher.text.tokens.table, dtype),
            weight(teacher.token_head.bias, dtype),
            self._share(contrast),
        )

    def _region(self, name: str, term: RegionTerm) -> Values:
        hidden, batch = self._embeddings["hidden"], self._batch
        image = self._fused[term.pair()].image
        assert image is not None
        # What stands before the regions, a class token or the whole image, is not predicted.
        predicted = self._model.region_outputs(image[:, -hidden.shape[1] :])[term.output]
        counts = self._there(hidden) if term.everywhere else hidden, batch["weights"]
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

    def _there(self, hidden: Array) -> Array:
        """Bool (b, p), True for the regions that a detector found, and for every patch."""
        assert self._model.config.image is not None
        return jnp.ones_like(hidden) if self._model.config.image.num_parts else self._batch["region_mask"]

    def _align(self, name: str, term: AlignTerm) -> Values:
        return {name: _merged([self._alignment(term, partner) for partner in term.partners])}

    def _alignment(self, term: AlignTerm, partner: Partner) -> Mean:
        text, image = self._fused[term.pair(partner)]
        assert text is not None
        assert image is not None
        own = partner == "own"
        mask = self._tokens_of("image", term.image, partner).mask
        weights = self._batch["weights"] if own else self._chosen().weights
        everywhere = jnp.ones_like(image[..., 0], bool) if mask is None else mask
        matched = jnp.full_like(self._batch["ids"], own, dtype=bool)
        return word_region_alignment(text, image, self._batch["text_mask"], everywhere, matched, weights)

    def _follows(self, name: str, term: FollowTerm) -> Values:
        judged = self._judged(term, "own", self._batch["follows"])
        return {name: judged.loss, f"{name}_accuracy": judged.correct}

    def _answers(self, name: str, term: AnswerTerm) -> Values:
        streams = self._fused[term.pair()]
        assert self._model.answer_head is not None
        logits = self._model.answer_head(self._model.pool(streams)["text"])
        return {name: answer_cross_entropy(logits, self._batch["answers"], self._batch["weights"])}

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
            match = self._terms["match"]
            assert isinstance(match, MatchTerm), "checked by FusionObjectiveConfig"
            batch, mode = self._batch, match.negatives
            hard = mode == "hard"
            # Drawn without looking, nothing of them is read.
            embeds = self._embeds() if hard else (batch["weights"][:, None],) * 2
            contrast = self._terms.get("contrast", ContrastTerm())
            assert isinstance(contrast, ContrastTerm)
            log_scale = contrast.bounded(self._model.log_scale[...]) if hard else 0.0
            key = key_or_fixed(self._pass_key("negatives"))
            self._negatives = sample_negatives(*embeds, log_scale, batch["ids"], batch["weights"], key, mode=mode)
        return self._negatives

    def _embeds(self) -> tuple[Array, Array]:
        """Of image and text (b, e)."""
        image, text = self._embeddings["image plain"], self._embeddings["text plain"]
        return self._model.embed_image(image), self._model.embed_text(text)

    def _pass_key(self, name: str) -> Key | None:
        """A key for each use, by its name."""
        return None if self._key is None else jax.random.fold_in(self._key, zlib.crc32(name.encode()))


def key_or_fixed(key: Key | None) -> Key:
    """A key for what is drawn even where nothing is dropped out."""
    return jax.random.key(0) if key is None else key


def _beside(parts: Sequence[Tokens]) -> Tokens:
    """The rows of all in one batch, those of an example one after the other, so that each stays on its device."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *xs: jnp.stack(xs, axis=1).reshape(-1, *xs[0].shape[1:]), *parts)


def _apart(streams: Streams, num_parts: int) -> Streams:
    """What `_beside` has put into one batch, with an axis for the parts behind that of the examples."""
    # Else the axis of the parts would take a mesh axis from that of the examples, where it has one device.
    sharding = rules.spec("b")
    return jax.tree.map(lambda x: x.reshape(-1, num_parts, *x.shape[1:], out_sharding=sharding), streams)


def _merged(means: list[Mean]) -> Mean:
    total = means[0]
    for mean in means[1:]:
        total = total.merge(mean)
    return total


def teacher_of(model: Fusion, state: ObjectiveState) -> Fusion:
    """The model with the parameters of the teacher that the state holds."""
    teacher: Fusion = nnx.merge(nnx.split(model)[0], state["teacher"])
    return teacher
