"""The model card: what stands in `README.md` of an export, for people and for the hub."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from mmjax.data.mixture import described
from mmjax.interop.card_parts import Parts
from mmjax.interop.dual import card as dual_card
from mmjax.interop.fusion import card as fusion_card
from mmjax.proof.facts import DUAL_ENCODER, FUSION, kind_of

TEMPLATE = """\
---
library_name: {{ parts.library }}
pipeline_tag: {{ parts.task }}
tags: [mmjax, {{ parts.tag }}, vision-language]
{% if licence_id %}license: {{ licence_id }}
{% endif %}---

# {{ class }}

{{ parts.what }}, trained with mmjax {{ mmjax_version }} for {{ step }} steps on \
{{ trained_on }}{{ ", averaged parameters" if ema else "" }}. \
Weights are {{ dtype }}.

## How to use it

```python
{{ parts.usage }}
```

{{ parts.inputs }}

## Evaluation
{% if parts.rows %}
| {{ parts.columns | join(" | ") }} |
|{{ "---|" * (parts.columns | length) }}
{% for row in parts.rows -%}
| {{ row | join(" | ") }} |
{% endfor %}
{%- else %}
None is recorded for this step.
{% endif %}
## Proof

{{ proof }}

## Licence of the training data

{{ data_licence }}

## Fingerprint

{% for name, digest in fingerprint.items() -%}
- {{ name }}: `{{ digest }}`
{% endfor %}
## Training config

```json
{{ config }}
```
"""

PROOF = "`parity.json` says how far this export is from the model that was trained, if it was proven. {again}"
AGAIN = (
    "Anyone can prove it again:\n`python -m mmjax.prove DIR` compares it, in PyTorch and without JAX, with the outputs "
    "in `proof/`."
)
ONCE = (
    "It was read\nback from its files and run in PyTorch as it was written, and compared with the outputs in `proof/`."
)

PARTS: dict[str, Callable[[Mapping[str, Any]], Parts]] = {DUAL_ENCODER: dual_card.parts, FUSION: fusion_card.parts}


def model_card(facts: Mapping[str, Any]) -> str:
    """The card of an export with these facts (see `export_folder.write_facts`)."""
    return jinja2.Template(TEMPLATE).render(
        **facts,
        trained_on=described(facts["experiment"]["data"]),
        parts=PARTS[kind_of(facts)](facts),
        proof=PROOF.format(again=ONCE if facts["format"] == "reference" else AGAIN),
        config=json.dumps(facts["experiment"], indent=2, ensure_ascii=False),
    )
