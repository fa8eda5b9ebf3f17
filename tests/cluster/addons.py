"""What can be installed into a cluster: operators, fake nodes, and resource definitions, each from its own module.

Manifests and charts are read from the published modules when they are needed. Only what must differ here is
changed: the image (built here), the node (the control machine, so that killing a node never kills an operator),
and how often readiness is asked for (the stock intervals would cost half a minute of every start).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from . import gobuild, hardware, images, kubectl, layout
from .charts import KUBERNETES
from .cluster import Cluster
from .common import ClusterError, run, wait_for, workplace
from .kubectl import Kubectl, Manifest

TRAINING_NAMESPACE = "kubeflow"
MONITORING_NAMESPACE = "monitoring"


def _kustomize(module: str, folder: str) -> list[Manifest]:
    path = gobuild.files_of(module) / folder
    return kubectl.documents(run([kubectl.program(), "kustomize", path], what=f"read the manifests of {module}"))


def _chart(module: str, folder: str, namespace: str, *options: str) -> list[Manifest]:
    source = gobuild.files_of(module) / folder
    with workplace(f"chart-{module}") as work:
        # A copy without its dependencies: those that are needed here are installed by themselves.
        chart = work / source.name
        shutil.copytree(source, chart, copy_function=shutil.copyfile)
        chart.chmod(0o755)
        description = yaml.safe_load((chart / "Chart.yaml").read_text())
        description.pop("dependencies", None)
        (chart / "Chart.yaml").chmod(0o644)
        (chart / "Chart.yaml").write_text(yaml.safe_dump(description))
        text = run(
            [gobuild.build("helm"), "template", module, chart, "--namespace", namespace, "--include-crds", *options],
            what=f"render the chart of {module}",
        )
    return _with_namespace(kubectl.documents(text), namespace)


def _with_namespace(manifests: list[Manifest], namespace: str) -> list[Manifest]:
    # `helm template` names no namespace where a template does not; `helm install` would have put it there.
    cluster_wide = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "APIService"}
    cluster_wide |= {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "FlowSchema", "Stage"}
    cluster_wide |= {"PriorityLevelConfiguration", "ClusterTrainingRuntime"}
    for item in manifests:
        if item["kind"] not in cluster_wide:
            item["metadata"].setdefault("namespace", namespace)
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, *manifests]


def _localise(program: str, manifests: list[Manifest], path: str) -> Path:
    """Point the Deployments at the image built here and at the control machine; the image's archive."""
    reference, image = images.of_program(program, path)
    for item in kubectl.of_kind(manifests, "Deployment"):
        pod = item["spec"]["template"]["spec"]
        pod["nodeSelector"] = {"kubernetes.io/hostname": layout.CONTROL}
        pod.setdefault("tolerations", []).append({"operator": "Exists"})
        for container in pod["containers"]:
            container.update(image=reference, imagePullPolicy="IfNotPresent")
            container.pop("resources", None)
            for probe in ("readinessProbe", "startupProbe"):
                if probe in container:
                    container[probe].update(initialDelaySeconds=1, periodSeconds=2, failureThreshold=60)
    return image


def apply(api: Kubectl, manifests: list[Manifest]) -> None:
    """Apply definitions and namespaces first, wait until the API serves them, then apply the rest."""
    early = [item for item in manifests if item["kind"] in ("CustomResourceDefinition", "Namespace")]
    definitions = kubectl.of_kind(early, "CustomResourceDefinition")
    if early:
        api.apply(*early, server_side=True)
    if definitions:
        names = {item["metadata"]["name"] for item in definitions}
        wait_for(lambda: names <= _established(api), what="the API's acceptance of new definitions", timeout=60)
    late = [item for item in manifests if item not in early]
    if late:
        api.apply(*late, server_side=True)


def _established(api: Kubectl) -> set[str]:
    return {item["metadata"]["name"] for item in api.get("crd") if kubectl.condition(item, "Established")}


def _install(cluster: Cluster, program: str, manifests: list[Manifest], path: str = "/manager") -> None:
    cluster.load(_localise(program, manifests, path), [layout.CONTROL])
    apply(cluster.kubectl, manifests)


def wait_ready(cluster: Cluster, name: str, timeout: float = 180) -> None:
    """Wait until the Deployments of an option have all their pods Ready."""
    namespace = OPTIONS[name].namespace
    if namespace is None:
        return
    api = cluster.kubectl.within(namespace)
    for item in api.get("deployment"):
        api.wait(
            "deployment",
            item["metadata"]["name"],
            lambda found: (
                found is not None and found.get("status", {}).get("readyReplicas", 0) >= found["spec"]["replicas"]
            ),
            what=f"the readiness of {name}",
            timeout=timeout,
        )


def _training_operator(cluster: Cluster) -> None:
    _install(cluster, "training-operator", _kustomize("training-operator", "manifests/overlays/standalone"))


def _kueue(cluster: Cluster) -> None:
    manifests = _chart("kueue", "charts/kueue", "kueue-system")
    for item in kubectl.of_kind(manifests, "ConfigMap"):
        settings = item["data"].get("controller_manager_config.yaml")
        if settings:
            config = yaml.safe_load(settings)
            # Kueue starts no controller for kinds whose definitions are absent, and waits for them.
            config["integrations"]["frameworks"] = ["batch/job", "kubeflow.org/pytorchjob", "pod"]
            item["data"]["controller_manager_config.yaml"] = yaml.safe_dump(config)
    # No front proxy here serves extension APIs; they would only be reported as unavailable.
    _install(cluster, "kueue", [item for item in manifests if item["kind"] != "APIService"])


def _jobset(cluster: Cluster) -> None:
    _install(cluster, "jobset", _chart("jobset", "charts/jobset", "jobset-system"))


def _trainer(cluster: Cluster) -> None:
    install(cluster, ["jobset"])
    _install(
        cluster,
        "trainer",
        _chart("trainer", "charts/kubeflow-trainer", "kubeflow-system", "--set", "image.tag=replaced"),
    )


def _kwok(cluster: Cluster) -> None:
    manifests = _kustomize("kwok", "kustomize/kwok") + _kustomize("kwok", "kustomize/stage/fast")
    for item in kubectl.of_kind(manifests, "Deployment"):
        item["spec"]["template"]["spec"]["containers"][0]["command"] = ["/kwok"]
    _install(cluster, "kwok", manifests, "/kwok")


def _karpenter(cluster: Cluster) -> None:
    apply(cluster.kubectl, _chart("karpenter", "charts/karpenter-crd", "karpenter"))


def _example(folder: str) -> list[Manifest]:
    """The objects of a folder of the Prometheus Operator's examples."""
    files = sorted((gobuild.files_of("prometheus-operator") / "example" / folder).glob("*.yaml"))
    return [item for path in files for item in kubectl.documents(path.read_text())]


def _prometheus_definitions(cluster: Cluster) -> None:
    apply(cluster.kubectl, kubectl.of_kind(_example("prometheus-operator-crd"), "CustomResourceDefinition"))


def _karpenter_kwok(cluster: Cluster) -> None:
    install(cluster, ["kwok"])
    source = gobuild.files_of("karpenter-kwok")
    classes = kubectl.documents((source / "kwok/apis/crds/karpenter.kwok.sh_kwoknodeclasses.yaml").read_text())
    # The chart of 1.14.1 names gates that its values lack, and Karpenter does not start with an empty one.
    gates = ("staticCapacity", "capacityBuffer")
    values = ["controller.image.repository=replaced", *(f"settings.featureGates.{gate}=false" for gate in gates)]
    options = (*KUBERNETES, "--set", ",".join(values))
    manifests = _chart("karpenter-kwok", "kwok/charts", "karpenter", *options)
    mounted = "/etc/karpenter/machines.json"
    machines = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "machines", "namespace": "karpenter"},
        "data": {Path(mounted).name: json.dumps(hardware.karpenter_machines())},
    }  # fmt: skip
    for item in kubectl.of_kind(manifests, "Deployment"):
        pod = item["spec"]["template"]["spec"]
        pod["volumes"] = [{"name": "machines", "configMap": {"name": "machines"}}]
        for container in pod["containers"]:
            # `_install` takes the resources away that these variables tell of.
            env = [entry for entry in container["env"] if "resourceFieldRef" not in entry.get("valueFrom", {})]
            container["env"] = [*env, {"name": "INSTANCE_TYPES_FILE_PATH", "value": mounted}]
            container["volumeMounts"] = [{"name": "machines", "mountPath": str(Path(mounted).parent)}]
    _install(cluster, "karpenter-kwok", [*classes, *manifests, machines], "/karpenter")


def _prometheus_operator(cluster: Cluster) -> None:
    install(cluster, ["prometheus-crds"])
    reloader, image = images.of_program("prometheus-config-reloader", "/bin/prometheus-config-reloader")
    cluster.load(image, [layout.CONTROL])
    cluster.load(images.of_program("prometheus", "/bin/prometheus")[1], [layout.CONTROL])
    monitors = {"ServiceMonitor", "Service"}
    operator = [item for item in _example("rbac/prometheus-operator") if item["kind"] not in monitors]
    for item in operator:
        item["metadata"].pop("namespace", None)
        for subject in item.get("subjects", []):
            subject["namespace"] = MONITORING_NAMESPACE
    for item in kubectl.of_kind(operator, "Deployment"):
        item["spec"]["template"]["spec"]["containers"][0]["args"] = [f"--prometheus-config-reloader={reloader}"]
    # What a Prometheus may read. Each test binds it to an account of its own.
    role = kubectl.of_kind(_example("rbac/prometheus"), "ClusterRole")
    manifests = _with_namespace([*operator, *role], MONITORING_NAMESPACE)
    _install(cluster, "prometheus-operator", manifests, "/bin/operator")


class Option:
    """Something that `up --with NAME` installs."""

    def __init__(
        self,
        installer: Callable[[Cluster], None],
        programs: list[str],
        namespace: str | None,
        what: str,
        definition: str,
        files: tuple[str, ...] = (),
    ) -> None:
        self.installer = installer
        self.programs = programs
        self.namespace = namespace
        self.what = what
        self.definition = definition  # a cluster that serves this has the option, whoever installed it
        self.files = files


OPTIONS = {
    "training-operator": Option(
        _training_operator, ["training-operator"], TRAINING_NAMESPACE, "PyTorchJob", "pytorchjobs.kubeflow.org"
    ),
    "kueue": Option(_kueue, ["kueue", "helm"], "kueue-system", "queues and quota", "clusterqueues.kueue.x-k8s.io"),
    "jobset": Option(_jobset, ["jobset", "helm"], "jobset-system", "groups of jobs", "jobsets.jobset.x-k8s.io"),
    "trainer": Option(
        _trainer,
        ["trainer", "jobset", "helm"],
        "kubeflow-system",
        "TrainJob, with JobSet",
        "trainjobs.trainer.kubeflow.org",
    ),
    "kwok": Option(_kwok, ["kwok"], "kube-system", "fake nodes that run fake pods", "stages.kwok.x-k8s.io"),
    "karpenter-crds": Option(
        _karpenter, ["helm"], None, "NodePool, EC2NodeClass", "nodepools.karpenter.sh", ("karpenter",)
    ),
    "karpenter-kwok": Option(
        _karpenter_kwok,
        ["karpenter-kwok", "kwok", "helm"],
        "karpenter",
        "Karpenter, over fake machines",
        "kwoknodeclasses.karpenter.kwok.sh",
    ),
    "prometheus-crds": Option(
        _prometheus_definitions,
        [],
        None,
        "PodMonitor, PrometheusRule",
        "podmonitors.monitoring.coreos.com",
        ("prometheus-operator",),
    ),
    "prometheus-operator": Option(
        _prometheus_operator,
        ["prometheus-operator", "prometheus-config-reloader", "prometheus"],
        MONITORING_NAMESPACE,
        "a Prometheus for each object of that kind",
        "prometheuses.monitoring.coreos.com",
        ("prometheus-operator",),
    ),
}


def check(names: list[str]) -> None:
    """Refuse a name that is no option."""
    for name in names:
        if name not in OPTIONS:
            raise ClusterError(f"there is no option {name}; there are {', '.join(OPTIONS)}")


def build(names: list[str]) -> None:
    """Build what these options need."""
    check(names)
    for name in names:
        for program in OPTIONS[name].programs:
            gobuild.build(program)
        for module in OPTIONS[name].files:
            gobuild.files_of(module)


def install(cluster: Cluster, names: list[str]) -> None:
    """Install options into a running cluster, those that are not there yet, and wait until they are ready."""
    check(names)
    fresh = [name for name in names if name not in installed(cluster)]
    build(fresh)
    for name in fresh:
        OPTIONS[name].installer(cluster)
    for name in fresh:
        wait_ready(cluster, name)
        (cluster.folder / "options").mkdir(exist_ok=True)
        (cluster.folder / "options" / name).touch()


def installed(cluster: Cluster) -> list[str]:
    """The options that a running cluster has."""
    folder = cluster.folder / "options"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
