"""A folder that holds a whole fusion model: of `transformers`, under its authors' names, or an export of our own."""

from pathlib import Path

from mmjax.interop.formats import Files, Format
from mmjax.interop.fusion.albef import ALBEF
from mmjax.interop.fusion.bert import BERT_FOR_PRETRAINING
from mmjax.interop.fusion.lxmert import LXMERT
from mmjax.interop.fusion.own import MMJAX_FUSION, MODEL_TYPE
from mmjax.interop.fusion.uniter import UNITER
from mmjax.interop.fusion.vilbert import VILBERT
from mmjax.interop.fusion.vilt import VILT
from mmjax.interop.fusion.visual_bert import VISUAL_BERT
from mmjax.interop.huggingface.folder import read_folder

PUBLIC: dict[str, Format] = {"bert": BERT_FOR_PRETRAINING, "lxmert": LXMERT, "vilt": VILT, "visual_bert": VISUAL_BERT}
OURS: dict[str, Format] = {"albef": ALBEF, "uniter": UNITER, "vilbert": VILBERT, MODEL_TYPE: MMJAX_FUSION}
"""Types whose `config.json` only `mmjax.export` writes, with every field."""


def read_fusion_folder(folder: Path) -> tuple[Format, Files]:
    """The format of a folder and its JSON files, see `read_folder`."""
    return read_folder(folder, PUBLIC | OURS, complete=OURS)
