"""Times forward and backward of the published fusion models beside a PyTorch class of the same weights.

    python benchmarks/fusion_step.py [--preset NAME ... --batch 8 --text-len 32 --repeats 9 --cores N] [--json FILE]

Both sides take the same float32 weights, converted by the tables of `mmjax/interop`, and the same batch: texts of
`text-len` tokens, every second one padded by half, and 36 regions, or pixels of the published size. Both give the sum
over all heads of the mean of their outputs' squares, and its gradient by every weight; values and norms of gradients
must agree to 1e-4 before anything is timed. There is no dropout on either side. Sides take turns in one process, so
that what else the machine does hits both; quoted are medians, the ratio of medians, and the quartiles of the ratio of
each turn. PyTorch has a thread for each core, fused attention where the class has it, and gradients that are set to
None; mmjax is compiled as a training step is, with its layers written out. FLOPs are three times those of the matrix
products of the traced forward pass.
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from mmjax import config as configs
from mmjax.interop.formats import Format, Spec
from mmjax.interop.fusion.bert import BERT_FOR_PRETRAINING
from mmjax.interop.fusion.lxmert import LXMERT
from mmjax.interop.fusion.own import MMJAX_FUSION
from mmjax.interop.fusion.vilt import VILT
from mmjax.interop.fusion.visual_bert import VISUAL_BERT
from mmjax.interop.huggingface.files import CONFIG
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.regions import RegionInputConfig
from mmjax.nn.parameter import num_parameters
from mmjax.optim import paths
from mmjax.parallel.host_memory import keep_freed_memory
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.rules import batch_sharding, replicated
from mmjax.serving.models.fusion import Fusion
from mmjax.training.flops import TRAIN_PER_FORWARD, count_flops
from mmjax.types import Params

NUM_REGIONS = 36
"""Of each image, as LXMERT and ViLBERT's demonstrations have them (Anderson et al., 2018)."""
TOLERANCE = 1e-4

HostBatch = dict[str, np.ndarray]
Tensors = dict[str, torch.Tensor]
Step = Callable[[], tuple[Any, Any]]
"""Gives the value and the gradients by all weights, in whatever tree."""


def plain_outputs(module: Fusion, batch: Tensors) -> Tensors:
    return module(batch)


def bert_outputs(module: Any, batch: Tensors) -> Tensors:
    found = module(**texts(batch))
    return {"token_logits": found.prediction_logits, "pair_logits": found.seq_relationship_logits}


def lxmert_outputs(module: Any, batch: Tensors) -> Tensors:
    """What `LxmertForPreTraining` runs where it is given labels for all of its heads."""
    found = module.lxmert(**texts(batch), visual_feats=batch["region_features"], visual_pos=batch["region_boxes"])
    words, pair = module.cls(found.language_output, found.pooled_output)
    regions = module.obj_predict_head(found.vision_output)
    return {
        "token_logits": words,
        "pair_logits": pair,
        "answer_logits": module.answer_head(found.pooled_output),
        "objects": regions["obj"],
        "attributes": regions["attr"],
        "features": regions["feat"],
    }


def visual_bert_outputs(module: Any, batch: Tensors) -> Tensors:
    """It predicts words at regions too; they are left out of the sum."""
    mask = batch["region_mask"].long()
    found = module(**texts(batch), visual_embeds=batch["region_features"], visual_attention_mask=mask)
    words = found.prediction_logits[:, : batch["text_ids"].shape[1]]
    return {"token_logits": words, "pair_logits": found.seq_relationship_logits}


def vilt_outputs(module: Any, batch: Tensors) -> Tensors:
    """It puts patches in an order drawn by chance, which no mean of squares sees."""
    found = module(**texts(batch), pixel_values=batch["image"])
    text_len = batch["text_ids"].shape[1]
    streams = found.last_hidden_state[:, :text_len], found.last_hidden_state[:, text_len:]
    return {"text": streams[0], "image": streams[1], "text_pooled": found.pooler_output}


def texts(batch: Tensors) -> Tensors:
    return {"input_ids": batch["text_ids"].long(), "attention_mask": batch["text_mask"].long()}


class Preset(NamedTuple):
    """One of `models.fusion.published`, and the class that it is compared with: without `config` our own module."""

    model: FusionConfig
    cls: Any = Fusion
    outputs: Callable[[Any, Tensors], Tensors] = plain_outputs
    format: Format = MMJAX_FUSION
    config: Any = None


PRESETS: dict[str, Callable[[], Preset]] = {
    "bert": lambda: Preset(
        published.bert(),
        transformers.BertForPreTraining,
        bert_outputs,
        BERT_FOR_PRETRAINING,
        transformers.BertConfig,
    ),
    "vilbert": lambda: Preset(published.vilbert()),
    "lxmert": lambda: Preset(
        published.lxmert(), transformers.LxmertForPreTraining, lxmert_outputs, LXMERT, transformers.LxmertConfig
    ),
    "uniter": lambda: Preset(published.uniter()),
    "uniter_large": lambda: Preset(published.uniter(published.LARGE)),
    "visual_bert": lambda: Preset(
        published.visual_bert(),
        transformers.VisualBertForPreTraining,
        visual_bert_outputs,
        VISUAL_BERT,
        transformers.VisualBertConfig,
    ),
    "vilt": lambda: Preset(published.vilt(), transformers.ViltModel, vilt_outputs, VILT, transformers.ViltConfig),
    "albef": lambda: Preset(published.albef()),
    "concatenation": lambda: Preset(published.concatenation()),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    jax.config.update("jax_platforms", "cpu")
    hold_to(options.cores)
    keep_freed_memory()
    rows = []
    print("| preset | beside | parameters | GFLOP an example | mmjax s | PyTorch s | ratio | quartiles |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.preset or PRESETS:
        rows.append({"preset": name, **measure(PRESETS[name](), options)})
        print(written(rows[-1]), flush=True)
        gc.collect()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated; by default all")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--text-len", type=int, default=32)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="of this machine, for both")
    parser.add_argument("--unroll", type=int, default=-1, help="layers in a step of the scan; -1 is all")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each side")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def hold_to(num_cores: int) -> None:
    """Has this process, whose threads are yet to start, run on so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    torch.set_num_threads(num_cores)


def measure(preset: Preset, options: argparse.Namespace) -> dict[str, Any]:
    """A row of the table.

    Raises:
        ValueError: the sides do not compute the same.
    """
    model = unrolled(preset.model, options.unroll)
    batch = batch_of(model, options.batch, options.text_len)
    with jax.set_mesh(make_mesh()):
        params, graph = built(model)
        theirs, names = their_step(preset, params, batch)
        ours, flops = our_step(graph, params, batch, names)
        check(ours(), theirs())
        seconds = in_turns({"mmjax": ours, "pytorch": theirs}, options.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [mine / other for mine, other in zip(seconds["mmjax"], seconds["pytorch"], strict=True)]
    return {
        "beside": preset.cls.__name__,
        "parameters": num_parameters(nnx.eval_shape(lambda: model.build(jax.random.key(0)))),
        "flops_per_example": flops // options.batch,
        "secs": medians,
        "ratio": medians["mmjax"] / medians["pytorch"],
        "quartiles": statistics.quantiles(ratios, n=4, method="inclusive")[::2],
    }


def unrolled(model: FusionConfig, unroll: int) -> FusionConfig:
    return replace(model, towers=replace(model.towers, unroll=unroll), fusion=replace(model.fusion, unroll=unroll))


def batch_of(model: FusionConfig, num_rows: int, text_len: int) -> HostBatch:
    """Texts, every second one of half the length, and images of random numbers."""
    rng = np.random.default_rng(0)
    lengths = np.where(np.arange(num_rows) % 2, text_len // 2, text_len)
    batch: HostBatch = {
        "text_ids": rng.integers(1, model.text.vocab_size, (num_rows, text_len)).astype(np.int32),
        "text_mask": np.arange(text_len) < lengths[:, None],
    }
    if isinstance(model.image, RegionInputConfig):
        corners = np.sort(rng.random((num_rows, NUM_REGIONS, 2, 2), np.float32), axis=2)
        features = rng.random((num_rows, NUM_REGIONS, model.image.feature_dim), np.float32)
        return batch | {
            "region_features": features,
            "region_boxes": corners.reshape(num_rows, NUM_REGIONS, 4),
            "region_mask": np.ones((num_rows, NUM_REGIONS), bool),
        }
    if model.image_shape is not None:
        batch["image"] = rng.normal(size=(num_rows, *model.image_shape, 3)).astype(np.float32)
    return batch


def built(model: FusionConfig) -> tuple[Params, Any]:
    """Initial parameters, and the graph of the module that takes them."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: model.build(jax.random.key(0))))
    make = jax.jit(
        lambda key: nnx.to_pure_dict(nnx.state(model.build(key))), out_shardings=replicated(jax.sharding.get_mesh())
    )
    return make(jax.random.key(0)), graph


def our_step(graph: Any, params: Params, batch: HostBatch, names: Sequence[str]) -> tuple[Step, int]:
    """The compiled step, and its FLOPs."""

    def loss(params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        streams, outputs = nnx.merge(graph, params)(batch)
        found = {**streams._asdict(), **outputs}
        return sum((jnp.mean(jnp.square(found[name])) for name in names), jnp.float32(0))

    placed = jax.device_put(batch, batch_sharding(jax.sharding.get_mesh()))
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, placed).compile()
    flops = TRAIN_PER_FORWARD * count_flops(loss, params, placed)
    return lambda: jax.block_until_ready(compiled(params, placed)), flops


def their_step(preset: Preset, params: Params, batch: HostBatch) -> tuple[Step, Sequence[str]]:
    """The step in PyTorch, and the names of the outputs in its sum."""
    module = their_module(preset, {path: np.asarray(array) for path, array in paths.leaves(params).items()})
    arrays = {name: x.transpose(0, 3, 1, 2) if name == "image" else x for name, x in batch.items()}
    tensors = {name: torch.from_numpy(np.array(x, order="C")) for name, x in arrays.items()}

    def step() -> tuple[Any, Any]:
        module.zero_grad(set_to_none=True)
        outputs = preset.outputs(module, tensors)
        value = torch.stack([x.square().mean() for x in outputs.values()]).sum()
        value.backward()
        return value.detach(), [weight.grad for weight in module.parameters() if weight.grad is not None]

    with torch.no_grad():
        return step, tuple(preset.outputs(module, tensors))


def their_module(preset: Preset, weights: Mapping[str, np.ndarray]) -> Any:
    """The class with these weights, without dropout."""
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in preset.format.tensors(preset.model, weights)}
    if preset.config is None:
        module = preset.cls(configs.to_dict(preset.model))
        module.load_state_dict(tensors)
        return module.eval()
    fields = preset.format.write(Spec(preset.model, None))[CONFIG]
    attention = "sdpa" if preset.cls._supports_sdpa else "eager"
    module = preset.cls(preset.config(**fields, attn_implementation=attention))
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    copies = {copy.theirs for copy in preset.format.copies}
    if unexpected or not copies.issuperset(missing):
        raise ValueError(f"{preset.cls.__name__} lacks weights for {missing} and has none of {unexpected}")
    for part in module.modules():
        if isinstance(part, torch.nn.Embedding):
            # LXMERT gives position 0 and token type 0 no gradient.
            part.padding_idx = None
    return module.eval()


def check(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    """Refuses sides that do not compute the same.

    Raises:
        ValueError: values or norms of gradients differ.
    """
    for what, function in (("value", lambda pair: float(pair[0])), ("norm of gradients", lambda pair: norm(pair[1]))):
        mine, other = function(ours), function(theirs)
        if abs(mine - other) > TOLERANCE * abs(other):
            raise ValueError(f"{what} {mine} of mmjax, {other} of PyTorch")


def norm(gradients: Any) -> float:
    """Of all arrays in a tree together."""
    arrays = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients)]
    return float(np.sqrt(sum(np.sum(np.square(array)) for array in arrays)))


def in_turns(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def written(row: Mapping[str, Any]) -> str:
    low, high = row["quartiles"]
    cells = [
        row["preset"],
        row["beside"],
        f"{row['parameters']:,}",
        f"{row['flops_per_example'] / 1e9:.1f}",
        f"{row['secs']['mmjax']:.3f}",
        f"{row['secs']['pytorch']:.3f}",
        f"{row['ratio']:.2f}",
        f"{low:.2f} to {high:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
