import re

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.optim import paths
from mmjax.optim.rules import DEFAULT_RULES, Rule, assign

ONE = np.zeros((2, 2), np.float32)
PARAMS = {
    "image": {
        "blocks": {"attention": {"query": {"kernel": ONE, "bias": ONE}}, "norm": {"scale": ONE}},
        "positions": ONE,
        "class_token": ONE,
        "patch": {"kernel": ONE},
    },
    "text": {"image_like": {"kernel": ONE}, "token_embedding": {"table": ONE}},
    "log_scale": ONE,
    "logit_bias": ONE,
}


def test_paths_read_as_english() -> None:
    assert "image/blocks/attention/query/kernel" in paths.leaves(PARAMS)


def test_default_rules_decay_matrices_only() -> None:
    decayed = {path for path, rule in assign(DEFAULT_RULES, PARAMS).items() if rule.decay_scale}
    assert decayed == {
        "image/blocks/attention/query/kernel",
        "image/patch/kernel",
        "text/image_like/kernel",
        "text/token_embedding/table",
    }


def test_first_matching_rule_wins() -> None:
    slow = Rule("image/.*", lr_scale=0.1)
    assigned = assign((slow, *DEFAULT_RULES), PARAMS)
    assert {path for path, rule in assigned.items() if rule == slow} == {
        path for path in paths.leaves(PARAMS) if path.startswith("image/")
    }


def test_pattern_covers_the_whole_path() -> None:
    assigned = assign((Rule("image.*", freeze=True), Rule(".*")), PARAMS)
    assert not assigned["text/image_like/kernel"].freeze


def test_uncovered_parameter_is_named() -> None:
    with pytest.raises(UserError, match=r"'image/blocks/attention/query/bias' \(and 2 others\).*add a rule"):
        assign((Rule("image/.*kernel"), Rule("text/.*"), Rule("log.*"), Rule("image/.*scale")), PARAMS)


def test_rule_without_a_match_names_the_nearest_paths() -> None:
    with pytest.raises(UserError, match=re.escape("'image/pach/kernel'") + ".*the nearest are image/patch/kernel,"):
        assign((Rule("image/pach/kernel"), *DEFAULT_RULES), PARAMS)


def test_rule_behind_a_general_one_is_refused() -> None:
    with pytest.raises(UserError, match="'text/.*' has no effect, because '.*' before it.*move it up"):
        assign((*DEFAULT_RULES, Rule("text/.*", freeze=True)), PARAMS)


def test_general_rule_may_be_left_without_parameters() -> None:
    assert assign((Rule("image/.*"), Rule("text/.*"), Rule("log.*"), Rule(".*")), PARAMS)


def test_bad_regular_expression_is_named() -> None:
    with pytest.raises(UserError, match=r"'image/\(' is not a regular expression"):
        assign((Rule("image/("),), PARAMS)
