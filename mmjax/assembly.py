"""From a config to the parts of a run: what training and evaluation both need."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax.data import text_rules
from mmjax.data.bad_records import BadRecords
from mmjax.data.captions import for_evaluation
from mmjax.data.config import DataConfig
from mmjax.data.loader import eval_batches
from mmjax.data.opened import open_split
from mmjax.data.records import BadRecord
from mmjax.data.sources.specs import list_splits
from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.evals.choice import ChoiceEval
from mmjax.evals.embed import Encoders, PairScorer
from mmjax.evals.masked_words import MaskedWordsEval
from mmjax.evals.rerank import RerankEval
from mmjax.evals.retrieval import RetrievalEval
from mmjax.evals.seen import Seen
from mmjax.evals.split import EvalSplit
from mmjax.evals.suite import Eval, as_json, run_suite
from mmjax.evals.zero_shot import ZeroShotConfig, ZeroShotEval
from mmjax.experiment import EvalsConfig, Experiment, from_values
from mmjax.interop.imports import Foreign
from mmjax.models.fusion.model import Fusion, FusionConfig, Tokens
from mmjax.optim.rules import Rule
from mmjax.parallel.rules import batch_divisor
from mmjax.proof.facts import read_facts
from mmjax.training.program import Program, batch_shapes, build_program
from mmjax.training.state import ModelSpec, model_spec
from mmjax.types import Array, Batch, HostBatch, Params
from mmjax.workdir import bad_records

Passing = Callable[[Iterable[HostBatch]], Iterator[HostBatch]]

HELD_OUT = ("test", "validation", "val")
"""Names of splits to evaluate on, the preferred one first, of data that the config does not know."""


def with_source(experiment: Experiment, source: str) -> Experiment:
    """The experiment on another data source, as `--data` asks for.

    Splits of the config that the data has are kept. Where it has none of them, it trains on "train", or its first
    split, and is evaluated on the first of `HELD_OUT` that there is. Other data is evaluated on its main captions. It
    takes the place of a mixture, too.

    Raises:
        UserError: there is no such data.
    """
    known = list_splits(source)
    training = next(name for name in (experiment.data.split, "train", known[0]) if name in known)
    kept = tuple(name for name in experiment.evals.splits if name in known)
    held_out = kept or tuple(name for name in HELD_OUT if name in known)[:1]
    captions = experiment.data.captions
    if source != experiment.data.source:
        # Joined captions are for a label and its key words; other data may have several full captions an image.
        captions = replace(captions, evaluation="main")
    data = replace(experiment.data, source=source, split=training, mixture=(), captions=captions)
    return replace(experiment, data=data, evals=replace(experiment.evals, splits=held_out))


def load_tokenizer(experiment: Experiment) -> Tokenizer:
    """The tokenizer of the run, which must fit the embedding table.

    Raises:
        UserError: it cannot be loaded, or it can emit ids that the model has no row for.
    """
    tokenizer = Tokenizer.load(experiment.data.tokenizer, experiment.data.text_rules)
    rows = experiment.model.vocab_size
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"data.tokenizer = {experiment.data.tokenizer!r} has {tokenizer.vocab_size} ids but model.text.vocab_size "
            f"= {rows}: set model.text.vocab_size={tokenizer.vocab_size}"
        )
    _check_mask(experiment, tokenizer)
    return tokenizer


def _check_mask(experiment: Experiment, tokenizer: Tokenizer) -> None:
    expected = experiment.objective.vocabulary
    if expected is not None and expected != (tokenizer.mask_id, tokenizer.special_ids):
        raise UserError(
            f"data.tokenizer = {experiment.data.tokenizer!r} has mask_id {tokenizer.mask_id} and special_ids "
            f"{tokenizer.special_ids}, but objective.tokens counts on {expected[0]} and {expected[1]}: make them equal"
            + (
                ""
                if tokenizer.mask_id is not None
                else " (a tokenizer without a mask cannot mask: 'emoji+mask' has one)"
            )
        )


def fingerprint(experiment: Experiment, tokenizer: Tokenizer) -> dict[str, str]:
    """Digests of what turns a record into model input; a run is only scored with the ones it was trained with."""
    found = {"tokenizer": tokenizer.fingerprint()}
    colours = experiment.model.image_colours
    if colours is None:
        return found
    pixels = [experiment.data.preprocess.fingerprint(), *map(list, colours)]
    return found | {"image preprocessing": hashlib.sha256(json.dumps(pixels).encode()).hexdigest()}


def program(experiment: Experiment, mesh: jax.sharding.Mesh) -> Program:
    """The program of the experiment on `mesh`.

    Raises:
        UserError: mesh, model and optimizer do not fit together.
    """
    model, spec = experiment.model, batch_shapes(experiment.data, mesh)
    objective = experiment.objective.build()
    # What is locked must not decay either; rules that come first decide.
    frozen = tuple(Rule(pattern, freeze=True) for pattern in model.frozen_paths)
    optim = replace(experiment.optim, rules=(*frozen, *experiment.optim.rules))
    return build_program(model.build, objective, optim, experiment.train, mesh, spec)


def model_spec_of(experiment: Experiment, mesh: jax.sharding.Mesh) -> ModelSpec:
    """The model alone, before it has values, for runs that do not train."""
    return model_spec(experiment.model.build, mesh)


def foreign_experiment(foreign: Foreign) -> Experiment:
    """An experiment that evaluates a foreign checkpoint with its own tokenizer and preprocessing.

    That of an exported fusion model is the one that it was trained by: it says what a match is added to, and what of
    an image is looked at.

    Raises:
        UserError: it is no whole model, or does not say how it wants its images.
    """
    if isinstance(foreign.spec.model, FusionConfig):
        return _trained_experiment(foreign)
    model, preprocess = foreign.spec
    if not foreign.tokenizer:
        raise UserError(
            f"{foreign.source} brings no tokenizer, and cannot be evaluated: start a run from it (config.init.source) "
            "with data.tokenizer and data.preprocess set, and evaluate that"
        )
    if foreign.format.part != "both" or preprocess is None:
        lacks = "is one tower alone" if foreign.format.part != "both" else "has no preprocessor_config.json"
        raise UserError(f"{foreign.source} {lacks}, and cannot be evaluated: give a whole model with all its files")
    data = DataConfig(tokenizer=foreign.tokenizer, text_len=model.text.context_len, preprocess=preprocess)
    return Experiment(model, data, evals=EvalsConfig(zero_shot=ZeroShotConfig()))


def _trained_experiment(foreign: Foreign) -> Experiment:
    """The experiment of which `foreign` is an export, with what the folder itself says of model and images."""
    trained = from_values(read_facts(Path(foreign.tokenizer))["experiment"])
    model, preprocess = foreign.spec
    # Its tokenizer brings the rules that texts were put in order by.
    tokenizer = replace(trained.data, tokenizer=foreign.tokenizer, text_rules=text_rules.NONE)
    data = replace(tokenizer, preprocess=preprocess or trained.data.preprocess)
    return replace(trained, model=model, data=data)


def encoders(experiment: Experiment, graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> Encoders:
    """The towers as compiled functions of the parameters, and the fusion where the model has one."""

    def image(params: Params, fields: Batch) -> Array:
        return nnx.merge(graphdef, params).image_embed(fields)

    def text(params: Params, text_ids: Array, text_mask: Array) -> Array:
        return nnx.merge(graphdef, params).text_embed(text_ids, text_mask)

    pairs = _pair_scorer(experiment, graphdef, mesh) if isinstance(experiment.model, FusionConfig) else None
    return Encoders(jax.jit(image), jax.jit(text), mesh, pairs)


def _pair_scorer(experiment: Experiment, graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> PairScorer:
    """The parts of a fusion model as compiled functions of the parameters."""

    def model(params: Params) -> Fusion:
        return nnx.merge(graphdef, params)

    def image(params: Params, fields: Batch) -> Tokens:
        return model(params).encode_image(fields)

    def text(params: Params, text_ids: Array, text_mask: Array) -> Tokens:
        return model(params).encode_text(text_ids, text_mask)

    def image_embed(params: Params, image: Tokens) -> Array:
        return model(params).embed_image(image) if experiment.model.embeds else _no_embeds(image)

    def text_embed(params: Params, text: Tokens) -> Array:
        return model(params).embed_text(text) if experiment.model.embeds else _no_embeds(text)

    def match(params: Params, text: Tokens, image: Tokens) -> Array:
        return model(params).match(text, image)

    def words(params: Params, text: Tokens, image: Tokens) -> Array:
        return model(params).words(text, image)

    def scale(params: Params) -> Array:
        return experiment.objective.similarity_scale(params)

    assert isinstance(experiment.model, FusionConfig)
    heads = experiment.model.heads
    return PairScorer(
        jax.jit(image),
        jax.jit(text),
        jax.jit(image_embed),
        jax.jit(text_embed),
        jax.jit(match),
        jax.jit(words),
        jax.jit(scale),
        mesh,
        can_match=heads.num_pair_classes == 2 and experiment.objective.matches,
        can_guess=heads.tokens,
    )


def _no_embeds(side: Tokens) -> Array:
    """Float32 (b, 0): what stands for the embeddings of a model that has none."""
    return side.tokens[:, 0, :0].astype(jnp.float32)


class SplitEvals(NamedTuple):
    """One split and the evaluations that are run on it."""

    split: EvalSplit
    evals: Mapping[str, Eval]


class Evaluation:
    """All evaluations of a run, by split."""

    def __init__(
        self,
        experiment: Experiment,
        tokenizer: Tokenizer,
        encoders: Encoders,
        workdir: Path,
        passing: Passing = iter,
    ):
        """Every batch of a split goes through `passing`, which may end the evaluation by raising."""
        self.encoders = encoders
        self.splits = {
            name: _split_evals(experiment, name, tokenizer, encoders, workdir, passing)
            for name in experiment.evals.splits
        }

    def __call__(self, params: Params) -> dict[str, Any]:
        """`{split: {"retrieval": {...}, "zero_shot": {...}}}` for these parameters."""
        return {
            name: as_json(run_suite(parts.evals, Seen(self.encoders, parts.split, params)))
            for name, parts in self.splits.items()
        }


def _split_evals(
    experiment: Experiment,
    name: str,
    tokenizer: Tokenizer,
    encoders: Encoders,
    workdir: Path,
    passing: Passing,
) -> SplitEvals:
    data, config = experiment.data, experiment.evals
    records = for_evaluation(open_split(data, name), data.captions)
    batch_size = _rounded_up(config.batch_size, batch_divisor(encoders.mesh))
    unusable = BadRecords(len(records), data.max_bad_share, bad_records(workdir, name, jax.process_index()))
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def batches() -> Any:
        return passing(eval_batches(data, records, tokenizer, batch_size=batch_size, bad_records=unusable, **processes))

    def tokenize(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return tokenizer(texts, data.text_len)

    split = EvalSplit(records, batches, tokenize, batch_size)
    return SplitEvals(split, _evals(experiment, encoders.pairs, split, tokenizer))


def _evals(
    experiment: Experiment, scorer: PairScorer | None, split: EvalSplit, tokenizer: Tokenizer
) -> dict[str, Eval]:
    """What the run can be scored by.

    Raises:
        UserError: nothing.
    """
    config, embeds = experiment.evals, experiment.model.embeds
    evals: dict[str, Eval] = {"retrieval": RetrievalEval()} if embeds else {}
    if scorer is not None:
        evals |= _evals_of_pairs(config, scorer, tokenizer, embeds)
    if embeds and config.zero_shot is not None and has_classes(split.records):
        evals["zero_shot"] = ZeroShotEval(config.zero_shot)
    if not evals:
        raise UserError(
            "nothing that was trained can be scored: towers without a common space (model.embed_dim = 0) need "
            "objective.match, or objective.tokens and a tokenizer with a mask; leave evals.splits out"
        )
    return evals


def _evals_of_pairs(config: EvalsConfig, scorer: PairScorer, tokenizer: Tokenizer, embeds: bool) -> dict[str, Eval]:
    """Those of models that look at both sides together."""
    evals: dict[str, Eval] = {}
    if scorer.can_match and embeds:
        evals["reranked"] = RerankEval(config.num_candidates, config.match_weight)
    elif scorer.can_match:
        evals["choice"] = ChoiceEval(config.num_candidates)
    if scorer.can_guess and tokenizer.mask_id is not None:
        evals["masked_words"] = MaskedWordsEval(tokenizer.mask_id, tokenizer.special_ids)
    return evals


def has_classes(records: Any) -> bool:
    """Whether the first readable record names its class."""
    for row in range(len(records)):
        with contextlib.suppress(BadRecord):
            return records[row].class_name is not None
    return False


def _rounded_up(size: int, divisor: int) -> int:
    return -(-size // divisor) * divisor
