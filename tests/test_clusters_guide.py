"""What the guide to clusters and the files beside it say is there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from recondite.cli import make_app

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
SLURM = (ROOT / "deploy" / "fit.slurm").read_text(encoding="utf-8")
KUBERAY = (ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8")


def commands():
    """Every recondite command in the guide and the files, in one line each."""
    for text in (GUIDE, SLURM, re.sub(r"^# ?", "", KUBERAY, flags=re.MULTILINE)):
        for line in text.replace("\\\n", " ").splitlines():
            found = re.search(
                r"(?:^ +|-- +|-m |^)recondite(?:\.cli)? ((?:fit|study|serve) .*)$", line.split("     #")[0]
            )
            if found and "|" not in line:
                yield found[1]


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_has_the_flags_it_is_given(command):
    values = {"$SLURM_JOB_NUM_NODES": "4", "$SLURM_CPUS_PER_TASK": "16", "$images": "images", "$screen": "screen"}
    tokens = shlex.split(re.sub(r"\$\w+", lambda name: values[name[0]], command))
    function, bound, ignored = make_app(tokens).parse_args(tokens, exit_on_error=False, print_error=False)
    assert function.__name__ in ("fit", "one_class", "latent_size", "grid", "serve")
    assert bound.arguments
    assert not ignored


def test_there_are_commands_to_look_at():
    assert len(list(commands())) >= 9


def test_the_manifest_asks_for_a_token_and_has_the_version_of_ray_that_the_tests_have():
    documents = list(yaml.safe_load_all(KUBERAY))
    assert [one["kind"] for one in documents] == ["RayCluster", "PersistentVolumeClaim", "Service", "NetworkPolicy"]
    cluster, claim, service, policy = documents
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    version = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)[1]
    assert cluster["spec"]["rayVersion"] == version
    assert f"ray:{version}-" in (ROOT / "deploy" / "ray.Dockerfile").read_text()
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (group,) = cluster["spec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    for container, pod in ((head, cluster["spec"]["headGroupSpec"]), (worker, group)):
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        (volume,) = pod["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]
    name = cluster["metadata"]["name"]
    assert service["spec"]["selector"]["ray.io/cluster"] == name
    assert policy["spec"]["podSelector"]["matchLabels"]["ray.io/cluster"] == name
    port = service["spec"]["ports"][0]["targetPort"]
    assert port in [one["containerPort"] for one in head["ports"]]
    assert policy["spec"]["ingress"][1]["ports"] == [{"port": port}]


@pytest.mark.slow
def test_the_script_for_slurm_is_one_and_keeps_its_token_in_a_closed_file():
    subprocess.run(["bash", "-n", ROOT / "deploy" / "fit.slurm"], check=True)
    assert "RAY_AUTH_MODE=token" in SLURM
    assert "umask 077" in SLURM
    assert not re.search(r"RAY_AUTH_TOKEN=", SLURM)
