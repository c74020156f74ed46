"""launch/gke/*.yaml against the published schemas of JobSet and of Kubernetes, and what the two have to agree on."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "launch" / "gke").glob("*.yaml"))
KUBERNETES = "1.31"  # the first in which a Job's podFailurePolicy is stable
WRONG_INPUT, AGAIN = 2, 75

pytestmark = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def jobs(path: Path) -> list[dict[str, Any]]:
    """The specs of the Jobs that the JobSet makes."""
    return [job["template"]["spec"] for job in load(path)["spec"]["replicatedJobs"]]


def test_the_job_set_has_the_published_fields_and_types(path: Path) -> None:
    """The models are made from JobSet's OpenAPI; they drop unknown fields, so nothing may be lost on the way."""
    written = load(path)
    read = JobsetV1alpha2JobSet.from_dict(written)
    assert read is not None
    assert read.to_dict() == written


def test_its_jobs_and_pods_are_valid(path: Path) -> None:
    for spec in jobs(path):
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec}
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_exit_statuses_are_told_apart(path: Path) -> None:
    """Status 2 ends the set, 75 and lost nodes start it again without being counted, what is left is counted."""
    policy = load(path)["spec"]["failurePolicy"]
    wrong_input, preempted = policy["rules"]
    assert wrong_input["action"] == "FailJobSet"
    assert wrong_input["onJobFailureMessagePatterns"] == [f"exit code {WRONG_INPUT} matching"]
    assert preempted["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert policy["maxRestarts"] > 0
    for spec in jobs(path):
        statuses, disruption = spec["podFailurePolicy"]["rules"]
        assert statuses["onExitCodes"]["values"] == [WRONG_INPUT, AGAIN]
        assert disruption["onPodConditions"][0]["type"] == "DisruptionTarget"
        assert spec["backoffLimit"] == 0
        # The schema allows any text; Kubernetes accepts a podFailurePolicy with this one alone.
        assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_names_and_numbers_agree(path: Path) -> None:
    for spec in jobs(path):
        pod = spec["template"]["spec"]
        (trainer,) = pod["containers"]
        assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == trainer["name"]
        assert {mount["name"] for mount in trainer["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert spec["parallelism"] == spec["completions"]
        values = {variable["name"]: variable.get("value") for variable in trainer["env"]}
        assert values["MMJAX_COORDINATOR"] == "auto" or values["MMJAX_NUM_PROCESSES"] == str(spec["completions"])
