"""Commands about jobs elsewhere, on a Ray cluster or on Kubernetes: `submit`, `list`, `logs`, `stop`."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core import errors
from jobs import console, options, paths

if TYPE_CHECKING:
    from jobs import rayjob

NOT_SUBMITTED = ("submit", "list", "logs", "stop")
NAMESPACE = "raycurrent"

Address = Annotated[
    str | None, typer.Option("--address", metavar="URL", help="Ray job server, such as http://127.0.0.1:8265")
]
Kubernetes = Annotated[bool, typer.Option("--kubernetes", help="RayJobs of KubeRay, by kubectl")]
Namespace = Annotated[str, typer.Option("--namespace", help="namespace on Kubernetes")]
OwnNamespace = Annotated[str | None, typer.Option("--namespace", help="namespace of the RayJob; default: raycurrent")]
Context = Annotated[str | None, typer.Option("--context", help="context of the kubeconfig; default: the current one")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="print the name of the job and return, without following it")]
NumCpus = Annotated[float | None, typer.Option("--num-cpus", help="CPUs to reserve for the driver, on a Ray cluster")]
NumGpus = Annotated[float | None, typer.Option("--num-gpus", help="GPUs to reserve for the driver, on a Ray cluster")]
Python = Annotated[
    str | None,
    typer.Option(
        "--python",
        help="interpreter on a Ray cluster; default: this one for a local cluster, else python",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="with --kubernetes: print the objects as YAML; else an option of the verb")
]
Replace = Annotated[bool, typer.Option("--replace", help="end the same job first, if it is running on Kubernetes")]
RunName = Annotated[
    str | None, typer.Option("--name", help="name of the RayJob before its verb; default: that of the run")
]
Overlay = Annotated[
    str | None,
    typer.Option(
        "--overlay",
        help="cpu, gpu, kueue, s3, local, or the file of a rendered overlay; default: gpu with cluster.use_gpu, s3 "
        "with a --home in a bucket, else cpu",
    ),
]
Image = Annotated[str | None, typer.Option("--image", metavar="REGISTRY/NAME:TAG", help="image of all pods")]
PullSecret = Annotated[str | None, typer.Option("--pull-secret", help="Secret for the registry of the image")]
Home = Annotated[
    str | None,
    typer.Option("--home", metavar="URI", help="folder or bucket that relative paths start from; default: /data"),
]
Claim = Annotated[str | None, typer.Option("--claim", help="claim of the shared volume; default: raycurrent-data")]
Queue = Annotated[str | None, typer.Option("--queue", help="Kueue queue")]
EnvSecrets = Annotated[
    list[str] | None,
    typer.Option(
        "--env-secret",
        help="Secret whose entries are environment variables of the nodes, for a store's keys and endpoint; repeatable",
    ),
]
NodeSelector = Annotated[
    list[str] | None,
    typer.Option("--node-selector", metavar="LABEL=VALUE", help="label that the nodes must have; repeatable"),
]
Tolerations = Annotated[
    list[str] | None,
    typer.Option("--toleration", metavar="KEY[=VALUE][:EFFECT]", help="taint that the pods tolerate; repeatable"),
]
PriorityClass = Annotated[str | None, typer.Option("--priority-class", help="priority class of the pods")]
HeadMemory = Annotated[str | None, typer.Option("--head-memory", metavar="SIZE", help="memory of the head, as 4Gi")]
WorkerMemory = Annotated[
    str | None, typer.Option("--worker-memory", metavar="SIZE", help="memory of each worker, as 16Gi")
]
Autoscaling = Annotated[
    bool,
    typer.Option(
        "--autoscaling", help="start workers when a stage asks for them, at most cluster.num_workers; end idle ones"
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="name of the job, as `list` shows it")]
Follow = Annotated[
    bool, typer.Option("--follow", help="follow the job until it ends, and end with its report and its exit code")
]


def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help="verb to run, followed by its own arguments")],
    address: Address = None,
    kubernetes: Kubernetes = False,
    no_wait: NoWait = False,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    python: Python = None,
    dry_run: DryRun = False,
    replace: Replace = False,
    name: RunName = None,
    namespace: OwnNamespace = None,
    kube_context: Context = None,
    overlay: Overlay = None,
    image: Image = None,
    pull_secret: PullSecret = None,
    home: Home = None,
    claim: Claim = None,
    queue: Queue = None,
    env_secret: EnvSecrets = None,
    node_selector: NodeSelector = None,
    toleration: Tolerations = None,
    priority_class: PriorityClass = None,
    head_memory: HeadMemory = None,
    worker_memory: WorkerMemory = None,
    autoscaling: Autoscaling = False,
) -> options.Job | str:
    """Run another verb as a Ray job, or as a RayJob on Kubernetes: follow its log, return its report and exit code."""
    command, arguments = _verb(context, verb), list(context.args)
    on_ray = {"address": address, "num_cpus": num_cpus, "num_gpus": num_gpus, "python": python}
    pods: dict[str, Any] = {
        **{
            "overlay": overlay,
            "image": image,
            "pull_secret": pull_secret,
            "home": home,
            "claim": claim,
            "queue": queue,
        },
        **{"env_secret": env_secret, "node_selector": node_selector, "toleration": toleration},
        **{"priority_class": priority_class, "head_memory": head_memory, "worker_memory": worker_memory},
        "autoscaling": autoscaling,
    }
    if not kubernetes:
        others = {"replace": replace, "name": name, "namespace": namespace, "context": kube_context, **pods}
        _refuse(others, "is for RayJobs; add --kubernetes, or leave it out")
        arguments += ["--dry-run"] if dry_run else []
        return _submit_to_ray(command, arguments, address, python, (num_cpus, num_gpus), no_wait)
    _refuse(on_ray, "is for Ray's own job server; leave it out with --kubernetes")
    objects = _objects(command, arguments, name, namespace, pods)
    if dry_run:
        return objects.to_yaml()
    from jobs import kubernetes as verb_module
    from workers.cluster import kubectl

    client = kubectl.Client(objects.namespace, kube_context)
    return options.Job(lambda _: verb_module.run(objects, client, replace, wait=not no_wait))


def list_(
    address: Address = None,
    kubernetes: Kubernetes = False,
    namespace: Namespace = NAMESPACE,
    kube_context: Context = None,
) -> options.Job:
    """List what was submitted: names, verbs, states."""
    from jobs import submitted

    where = submitted.choose(address, kubernetes, namespace, kube_context)
    return options.Job(lambda _: where.list_jobs(), only_prints=True)


def logs(
    name: Name,
    follow: Follow = False,
    address: Address = None,
    kubernetes: Kubernetes = False,
    namespace: Namespace = NAMESPACE,
    kube_context: Context = None,
) -> options.Job:
    """Print the log of a submitted job so far, or follow it."""
    from jobs import submitted

    where = submitted.choose(address, kubernetes, namespace, kube_context)
    if follow:
        return options.Job(lambda _: where.follow(name))
    return options.Job(lambda stdout: where.print_log(name, stdout), streams=True)


def stop(
    name: Name,
    address: Address = None,
    kubernetes: Kubernetes = False,
    namespace: Namespace = NAMESPACE,
    kube_context: Context = None,
) -> options.Job:
    """Stop a submitted job; it saves a checkpoint first."""
    from jobs import submitted

    where = submitted.choose(address, kubernetes, namespace, kube_context)
    return options.Job(lambda _: where.stop(name))


def _verb(context: typer.Context, verb: str) -> Any:
    group: Any = context.parent.command if context.parent else None
    if verb in NOT_SUBMITTED or verb not in group.commands:
        raise errors.UsageError(
            f"submit: {console.sanitize(verb)!r} cannot be submitted; use another verb of {console.program()} --help"
        )
    return group.commands[verb]


def _refuse(given: Mapping[str, object], why: str) -> None:
    for option, value in given.items():
        if value not in (None, False, []):
            raise errors.UsageError(f"--{option.replace('_', '-')}: {why}")


def _submit_to_ray(
    command: Any,
    arguments: list[str],
    address: str | None,
    python: str | None,
    resources: tuple[float | None, float | None],
    no_wait: bool,
) -> options.Job:
    from jobs import submit as verb_module

    server = verb_module.resolve_address(address)
    is_local = verb_module.is_loopback(server)
    spec = verb_module.plan(command, arguments, verb_module.Target(sees_this_machine=is_local))
    reserved = dict(zip(("entrypoint_num_cpus", "entrypoint_num_gpus"), resources, strict=True))
    interpreter = python or (sys.executable if is_local else "python")
    return options.Job(lambda _: verb_module.run(spec, server, interpreter, reserved, wait=not no_wait))


def _objects(
    command: Any, arguments: list[str], name: str | None, namespace: str | None, pods: dict[str, Any]
) -> "rayjob.Objects":
    """Returns the objects of a command, after checking all that can be checked from here."""
    from jobs import kubernetes as verb_module
    from jobs import rayjob
    from jobs import submit as planning

    spec = planning.plan(command, arguments, planning.on_kubernetes())
    home = pods["home"]
    if home is not None:
        options.absolute(home, "--home")  # checks it
        if paths.is_machine_specific(home):
            raise errors.UsageError(f"--home: {home!a} is relative; use an absolute path or URL that the pods see")
    default = "gpu" if spec.cluster.use_gpu else "s3" if home is not None and "://" in home else "cpu"
    parsed = {
        "overlay": pods["overlay"] or default,
        "env_secret": tuple(pods["env_secret"] or ()),
        "node_selector": tuple(rayjob.parse_label(text) for text in pods["node_selector"] or ()),
        "toleration": tuple(rayjob.parse_toleration(text) for text in pods["toleration"] or ()),
    }
    work = verb_module.work_of(spec, name)
    return rayjob.render(work, rayjob.Options(namespace=namespace, **{**pods, **parsed}))
