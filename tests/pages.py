"""README and the pages of docs/ as tests see them: their commands, and which test runs each."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

# Each command of a `sh` block, as written, is in one of these groups.

DEMO_RUN = ("torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml",)
"""tests/integration/test_readme.py, in a folder with the demo world of full size."""

AFTER_THE_DEMO_RUN = (
    "cclm finetune configs/demo/xvnli.yaml --checkpoint output/demo",
    "cclm evaluate configs/demo/xvnli.yaml --checkpoint output/demo_xvnli",
    "cclm finetune configs/demo/xvnli_fewshot.yaml --checkpoint output/demo_xvnli --fewshot de,48",
    "cclm describe output/demo",
    "cclm describe output/demo/step-00000900 --verify",
    "cclm convert output/demo/best demo.th",
)
"""The same test, in this order."""

IN_THE_REPOSITORY = ("cclm parity tests/golden --worst 5",)
"""The same file."""

IN_A_SMALL_WORLD = (
    "cclm data check configs/demo/pretrain.yaml --processes 2",
    "cclm launch --preflight-only -- pretrain configs/demo/pretrain.yaml",
    "cclm launch --nproc-per-node 2 -- pretrain configs/demo/pretrain.yaml",
    "cclm status output/demo",
    "cclm status output/demo --watch",
    "cclm data audit output/demo",
    "cclm data audit output/demo output/demo_again",
    "cclm launch --nnodes 1:2 --max-restarts 3 --rdzv-endpoint localhost:29511 --rdzv-id try -- "
    "pretrain configs/demo/pretrain.yaml",
    "torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml -j 1x2 --output output/two",
    "torchx run -s local_cwd cclm.xvnli --config configs/demo/xvnli.yaml --checkpoint output/two",
    "torchx run -s kubernetes --dryrun cclm.xvnli -h a100x8_p4d -j 1:2x8 --checkpoint s3://bucket/4m "
    "--output_hdfs hdfs://nn/xvnli",
    "torchx builtins",
    "torchx run -s local_cwd cclm.xvnli --help",
    "torchx runopts kubernetes",
    'torchx run -s local_docker --workspace "" --dryrun cclm.gqa -j 2x4 --checkpoint s3://bucket/4m '
    "--output_hdfs s3://bucket/gqa",
    "cclm data shard demo_world/data/pretrain/image_text shards --size 1G",
    "cclm data index shards",
)
"""tests/integration/test_docs_commands.py, in this order, in a folder with a tiny demo world."""

PUBLISHED = (
    "cclm demo published --as-published",
    "cd published",
    "cclm run --task pretrain_cclm_3m --dist 1 --output_dir output/",
    "cclm convert output/ pretrained_model.th",
    "cclm run --dist 1 --task xvnli --output_dir output/xvnli --checkpoint pretrained_model.th --bs 128 --seed 42",
)
"""The same file, in this order; the world is drawn with --tiny."""

_ON_KUBERNETES = (
    "cclm.pretrain --config configs/Pretrain_4m.yaml --image REGISTRY/cclm:1 -h a100x8_p4d -j 1:2x8 "
    "--output_hdfs s3://bucket/4m"
)
IN_A_CLUSTER = (
    f"torchx run -s kubernetes --dryrun -cfg namespace=team,secrets=store {_ON_KUBERNETES}",
    "torchx list -s kubernetes",
)
"""tests/cluster/test_docs.py."""

_OPERATOR = "github.com/kubeflow/training-operator.git/manifests/overlays/standalone?ref=v1.9.4"
_CLOUD = "makes machines of a cloud, which cost money; tests/cluster has kwok nodes of the same shapes"
_DOCKER = "needs Docker; tests/cluster builds the Dockerfile with buildah"
_HANDLE = "HANDLE stands for a run's; tests/cluster gives the same command for its own runs"
_RELEASE = "tests/cluster/test_run_chart_life.py installs, upgrades and uninstalls the chart with values of its own"
NOT_RUN = {
    f"torchx run -s kubernetes -cfg namespace=team,secrets=store {_ON_KUBERNETES}": (
        "needs GPUs; its dry run is made, and tests/cluster starts the demo world's run by the same command"
    ),
    "helm install demo helm/cclm-pretrain --set image.repository=REGISTRY/cclm,image.tag=1": (
        "needs a registry; tests/cluster/test_run_chart_demo.py installs it with the image that tests build"
    ),
    "helm test demo": "tests/cluster/test_run_chart_demo.py runs it on the demo world",
    "helm install base helm/cclm-pretrain -f values.yaml": _RELEASE,
    "helm upgrade base helm/cclm-pretrain -f values.yaml": _RELEASE,
    "helm uninstall base": _RELEASE,
    "torchx status HANDLE": _HANDLE,
    "torchx log HANDLE": _HANDLE,
    "torchx cancel HANDLE": _HANDLE,
    "torchx delete HANDLE": _HANDLE,
    "torchx resize HANDLE 1": _HANDLE,
    "kind create cluster": "needs Docker",
    "kind load docker-image REGISTRY/cclm:1": "needs Docker; tests/cluster loads the image into its own nodes",
    "eksctl create cluster --name cclm --without-nodegroup": _CLOUD,
    "eksctl create nodegroup --cluster cclm --name system --node-type m5.large --nodes 1": _CLOUD,
    "eksctl create nodegroup --cluster cclm --name a100 --node-type p4d.24xlarge --nodes 2": _CLOUD,
    "gcloud container clusters create cclm --zone us-central1-a --num-nodes 1": _CLOUD,
    "gcloud container node-pools create a100 --cluster cclm --zone us-central1-a --machine-type a2-highgpu-8g "
    "--accelerator type=nvidia-tesla-a100,count=8,gpu-driver-version=latest --num-nodes 0 --enable-autoscaling "
    "--min-nodes 0 --max-nodes 2": _CLOUD,
    f'kubectl apply --server-side -k "{_OPERATOR}"': (
        "fetches from GitHub; tests/cluster applies the same manifests, from the Go module of that version"
    ),
    "kubectl create namespace team": "tests/cluster makes a namespace of its own for each test",
    "kubectl create secret generic store -n team --from-literal=AWS_ACCESS_KEY_ID=KEY "
    "--from-literal=AWS_SECRET_ACCESS_KEY=SECRET": "KEY and SECRET stand for real ones; tests/cluster applies a secret",
    "sh quickstart.sh": "installs everything; its other two commands are run, and test_readme.py reads the script",
    "sh quickstart.sh test": "runs the tests; test_readme.py runs the script on a few made-up ones",
    "pip install -c constraints.txt -e '.[test]'": "changes the environment that the tests run in",
    "pip install -e '.[benchmarks,test]'": "changes the environment that the tests run in",
    "docker build -t REGISTRY/cclm:1 .": _DOCKER,
    "docker build -t REGISTRY/cclm:1-cuda --build-arg BASE=nvidia/cuda:TAG@sha256:DIGEST .": _DOCKER,
    "curl -fsSL https://efa-installer.amazonaws.com/aws-efa-installer-1.48.0.tar.gz | sha256sum": "fetches from AWS",
    "docker build -t REGISTRY/cclm:1-efa --build-arg FABRIC=efa --build-arg EFA_SHA256=SUM .": _DOCKER,
    "docker build -t REGISTRY/cclm:1-cpu "
    '--build-arg PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu" .': _DOCKER,
    "docker build -t REGISTRY/cclm:1-cpu --build-arg CPU_ONLY=yes .": _DOCKER,
    "docker run --rm REGISTRY/cclm:1 pip inspect > pip.json": _DOCKER,
    'docker run --rm REGISTRY/cclm:1 sh -c "python -m venv /tmp/sbom && /tmp/sbom/bin/pip install -q '
    'cyclonedx-bom==7.5.0 && /tmp/sbom/bin/cyclonedx-py environment --of JSON /opt/cclm/bin/python" '
    "> cclm.cdx.json": _DOCKER,
    "cclm run --dist 1 --task TASK --output_dir output/TASK --checkpoint pretrained_model.th --bs 128 --seed 42": (
        "TASK stands for a name of the table below it; the same is run for xvnli"
    ),
    "cclm pretrain configs/demo/pretrain.yaml --output-hdfs hdfs://namenode/runs/demo": "needs HDFS",
    "kubectl apply -f k8s/dead_nodes.yaml": "needs a registry; tests/cluster/test_dead_nodes.py applies it",
    "python -m benchmarks.input --stores local,s3,hdfs --rounds 3": "twenty minutes, and needs stores",
    "python -m benchmarks.checkpoint --store s3": "needs a store",
    "python -m benchmarks.evaluate": "takes minutes; tests/unit/benchmarks reads the command lines",
    "python -m benchmarks.gpu": "needs a GPU; tests/unit/benchmarks tests what it says without one",
    "python -m benchmarks.predict": "takes a minute; tests/unit/benchmarks predicts steps of a small model",
    "python -m benchmarks.metrics --steps 60 --log-every 5": "takes minutes",
    "python -m benchmarks.scale": "minutes, and what it measures takes no files",
    "python -m benchmarks.step --plain --threads 1": "takes minutes; tests/unit/tasks compares both steps",
    "python -m benchmarks.step --kinds images --rounds 1 --warm-up 0 --no-flops --threads 1 --accumulate 4": "minutes",
    "python -m benchmarks.transfer": "trains for hours",
    "python -m pytest tests/integration/test_torchx.py": "is a part of the tests",
}
"""Why no test runs these as written."""

RUN = (*DEMO_RUN, *AFTER_THE_DEMO_RUN, *IN_THE_REPOSITORY, *IN_A_SMALL_WORLD, *PUBLISHED, *IN_A_CLUSTER)


def commands(page: Path) -> list[str]:
    """Every line of a page's `sh` blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def shell(command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would who has activated the environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | variables
    return subprocess.run(
        ["sh", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
