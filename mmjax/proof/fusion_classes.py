"""Fusion models as classes of `transformers` load them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from mmjax.proof.fusion import tensors
from mmjax.proof.loaded import Loaded, image_processor, through_transformers
from mmjax.proof.quiet import quiet_transformers
from mmjax.proof.sample import Arrays

Batch = Mapping[str, Tensor]
Outputs = dict[str, Tensor]
"""Under our names."""


def load(export: Path, facts: Mapping[str, Any]) -> Loaded:
    """The export, in float32."""
    name = facts["class"]
    with quiet_transformers():
        model = getattr(transformers, name).from_pretrained(export, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(export)
        processor = image_processor(export) if name in OF_PIXELS else None

    def outputs(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            found = CLASSES[name](model, tensors(inputs))
        return {name: array.numpy() for name, array in found.items()}

    return through_transformers(outputs, processor, tokenizer, f"torch {torch.__version__}")


def texts_of(batch: Batch) -> dict[str, Tensor]:
    types = {"token_type_ids": batch["token_types"].long()} if "token_types" in batch else {}
    return {"input_ids": batch["text_ids"].long(), "attention_mask": batch["text_mask"].long(), **types}


def _bert(model: Any, batch: Batch) -> Outputs:
    base, found = model.bert(**texts_of(batch)), model(**texts_of(batch))
    return {
        "text": base.last_hidden_state,
        "text_pooled": base.pooler_output,
        "token_logits": found.prediction_logits,
        "pair_logits": found.seq_relationship_logits,
    }


def _lxmert(model: Any, batch: Batch) -> Outputs:
    inputs = texts_of(batch) | {
        "visual_feats": batch["region_features"],
        "visual_pos": batch["region_boxes"],
        "visual_attention_mask": batch["region_mask"].long(),
    }
    streams, found = model.lxmert(**inputs), model(**inputs)
    regions = model.obj_predict_head(streams.vision_output)
    return {
        "text": streams.language_output,
        "image": streams.vision_output,
        "text_pooled": streams.pooled_output,
        "token_logits": found.prediction_logits,
        "pair_logits": found.cross_relationship_score,
        "answer_logits": found.question_answering_score,
        "objects": regions["obj"],
        "attributes": regions["attr"],
        "features": regions["feat"],
    }


def _visual_bert(model: Any, batch: Batch) -> Outputs:
    inputs = texts_of(batch) | {
        "visual_embeds": batch["region_features"],
        "visual_attention_mask": batch["region_mask"].long(),
    }
    base, found = model.visual_bert(**inputs), model(**inputs)
    text_len = batch["text_ids"].shape[1]
    return {
        "text": base.last_hidden_state[:, :text_len],
        "image": base.last_hidden_state[:, text_len:],
        "text_pooled": base.pooler_output,
        "token_logits": found.prediction_logits[:, :text_len],
        "pair_logits": found.seq_relationship_logits,
    }


def _vilt(model: Any, batch: Batch) -> Outputs:
    """The class shuffles the patches, so only what reads all of them together is compared."""
    found = model(**texts_of(batch), pixel_values=batch["image"])
    return {
        "text": found.last_hidden_state[:, : batch["text_ids"].shape[1]],
        "text_pooled": found.pooler_output,
    }


CLASSES: dict[str, Callable[[Any, Batch], Outputs]] = {
    "BertForPreTraining": _bert,
    "LxmertForPreTraining": _lxmert,
    "VisualBertForPreTraining": _visual_bert,
    "ViltModel": _vilt,
}
OF_PIXELS = ("ViltModel",)
