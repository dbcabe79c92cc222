"""`make image-test`: builds the image, and runs the containers of deploy/kubernetes/ from it with podman.

It needs root, mmdebstrap, buildah, podman and runc, which are packages of Debian. No registry of images is used: the
base is made of Debian's packages, once; `podman rmi localhost/donationd-base` has it made again. The exit status is 1
if anything is not as it must be.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg2

from tests.support import debian, manifests
from tests.support.guard import guarded
from tests.support.instance import eventually, free_ports, get
from tests.support.postgres import USER, running_server

ROOT = Path(__file__).parent.parent
BASE, IMAGE = "localhost/donationd-base", "localhost/donationd"
STATE = "/var/lib/donationd"
USER_ID = 65532
MAX_BYTES = 250_000_000  # on top of the base
# What has no place in an image that only serves.
UNWANTED = ("gcc", "cc", "make", "pip", "git", "postgres")
SECRET = "whsec_" + "image" * 8
# Where an operator may have put secrets before the image is built.
SECRET_FILES = (".env", ".donationd/environment", "deploy/container/.env", "deploy/container/settings.env")
START_S, STOP_S = 60.0, 20
HARDENED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"]
# Of open files the API needs 3,320. podman's own limits are more than a machine that is a container itself may grant.
HERE = ["--network=host", "--ulimit=nofile=4096", "--ulimit=nproc=4096", "--pull=never"]
PODMAN = ["podman", "--runtime=runc"]


def run(*command: str | Path, status: int = 0) -> str:
    """Runs a program that ends with this status, and returns what it prints."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == status, f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}"
    return done.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints how long the block took."""
    began_s = time.monotonic()
    yield
    print(f"{time.monotonic() - began_s:6.1f} s  {what}", flush=True)


def make_base(folder: Path) -> None:
    """A minimal Debian with Python as an image, from the packages that apt of this machine uses."""
    if run(*PODMAN, "images", "--quiet", BASE):
        return
    packages = folder / "base.tar"
    run("mmdebstrap", "--quiet", "--variant=minbase", "--include=python3-venv", "bookworm", packages)
    run(*PODMAN, "import", "--quiet", packages, BASE)
    packages.unlink()


def build_image(folder: Path) -> None:
    """The image, from a checkout with secrets in it. pip has fetched the packages before, so that it works offline."""
    context, wheels = folder / "context", folder / "wheels"
    shutil.copytree(ROOT, context, ignore=shutil.ignore_patterns(".git", ".venv", ".donationd", "build", ".*_cache"))
    for name in SECRET_FILES:
        (context / name).parent.mkdir(exist_ok=True)
        (context / name).write_text(f"STRIPE_WEBHOOK_SECRET={SECRET}\n")
    lock = ROOT / "deploy" / "requirements.lock"
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-d", wheels, "-r", lock)
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    mounts = [f"--volume={wheels}:/wheels:ro", f"--volume={folder / 'pip.conf'}:/etc/pip.conf:ro"]
    build = ["buildah", "build", "--quiet", "--isolation=chroot", "--pull-never", f"--build-arg=BASE={BASE}", *mounts]
    run(*build, "--file", context / "deploy" / "container" / "Dockerfile", "--tag", IMAGE, context)


def check_image() -> None:
    """It is small, its user has no rights, and it contains no secret and no compiler."""
    size = {name: json.loads(run(*PODMAN, "image", "inspect", name))[0]["Size"] for name in (BASE, IMAGE)}
    own = size[IMAGE] - size[BASE]
    print(f"{own / 1e6:6.1f} MB on top of the base")
    assert own < MAX_BYTES
    inside = [*PODMAN, "run", "--rm", *HARDENED, *HERE, IMAGE]
    assert run(*inside, "id", "-u").strip() == str(USER_ID)
    run(*inside, "grep", "-rq", SECRET, "/opt", STATE, status=1)
    found = run(*inside, "find", "/opt", "/usr", "-perm", "/111", "-type", "f", "(", *_any_of(UNWANTED), ")")
    assert found == "", found
    assert "Usage: donationd" in run(*inside)


def _any_of(names: tuple[str, ...]) -> list[str]:
    return [word for name in names for word in ("-o", "-name", name)][1:]


@contextmanager
def container(name: str, secrets: Mapping[str, str], volume: str, ports: Mapping[str, str]) -> Iterator[str]:
    """A container of the StatefulSet's pods; yields its id."""
    described = manifests.containers("StatefulSet")[name]
    environ = {**manifests.environ(described, secrets), **ports}
    variables = [f"--env={key}={value}" for key, value in environ.items()]
    options = ["--detach", *HARDENED, *HERE, f"--volume={volume}:{STATE}", *variables]
    number = run(*PODMAN, "run", *options, IMAGE, *described["command"]).strip()
    try:
        yield number
    finally:
        if sys.exc_info()[0]:
            subprocess.run([*PODMAN, "logs", "--tail", "20", number], check=False)
        run(*PODMAN, "rm", "--force", "--time", "0", number)


def migrate(url: str) -> None:
    """The Job, and before it the role of the processes."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute((ROOT / "deploy" / "roles.sql").read_text())
    described = manifests.containers("Job")["migrate"]
    variables = [f"--env={k}={v}" for k, v in manifests.environ(described, {"MIGRATE_DATABASE_URL": url}).items()]
    run(*PODMAN, "run", "--rm", *HARDENED, *HERE, *variables, IMAGE, *described["command"])


def check_pod(url: str, owner_url: str, volume: str) -> None:
    """The processes of a pod serve, survive the death of the sidecar, and end when they are asked to."""
    api_port, metrics_port = map(str, free_ports(2))
    ports = {"HOST": "127.0.0.1", "PORT": api_port, "METRICS_HOST": "127.0.0.1", "METRICS_PORT": metrics_port}
    api, metrics = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{metrics_port}/metrics"
    secrets = {"DATABASE_URL": url, "STRIPE_WEBHOOK_SECRET": SECRET, "STRIPE_LIVEMODE": "false"}
    with ExitStack() as stack:
        with timed("until the API is ready"):
            pod = {
                name: stack.enter_context(container(name, secrets, volume, ports))
                for name in manifests.containers("StatefulSet")
            }
            eventually(lambda: get(f"{api}/health/db")[0] == 200, "the API is ready", START_S)
        run(*PODMAN, "exec", pod["api"], "donationd", "status")
        run(*PODMAN, "exec", pod["api"], "donationd", "tickets", "add", "story-1")
        check_events(pod["api"], api, owner_url, metrics, seed=7)
        check_heartbeat(pod["jobs"])
        run(*PODMAN, "exec", pod["api"], "touch", "/tmp/file", status=1)
        check_death_of_the_sidecar(pod["sidecar"], api)
        check_events(pod["api"], api, owner_url, metrics, seed=8)
        check_stop(pod, api)


def check_death_of_the_sidecar(sidecar: str, api: str) -> None:
    """The API rejects requests until another sidecar runs, which finds what the first one has seen of the ledger."""
    with timed("from kill -9 of the sidecar until the API is ready again"):
        run(*PODMAN, "kill", "--signal", "KILL", sidecar)
        run(*PODMAN, "wait", sidecar)
        eventually(lambda: get(f"{api}/health/db")[0] == 503, "the API has noticed", START_S)
        run(*PODMAN, "start", sidecar)
        eventually(lambda: get(f"{api}/health/db")[0] == 200, "the API is ready again", START_S)
    run(*PODMAN, "exec", sidecar, "test", "-s", f"{STATE}/ledger-position.json")


def check_stop(pod: Mapping[str, str], api: str) -> None:
    """Each process ends with status 0 after SIGTERM, and the pod comes back."""
    for name in ("api", "jobs", "sidecar"):
        with timed(f"from SIGTERM to the end of {name}"):
            run(*PODMAN, "stop", "--time", str(STOP_S), pod[name])
        assert run(*PODMAN, "inspect", "--format", "{{.State.ExitCode}}", pod[name]).strip() == "0"
    run(*PODMAN, "start", *pod.values())
    eventually(lambda: get(f"{api}/health/db")[0] == 200, "the API is ready after the stop", START_S)


def check_events(api: str, address: str, owner_url: str, metrics: str, *, seed: int) -> None:
    """Signed events are recorded, and the sidecar's page counts those of all its process runs."""
    simulate = ["donationd", "simulate", "--url", address, "--payments", "3", "--seed", str(seed)]
    run(*PODMAN, "exec", api, *simulate)
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM stripe_events")
        [(recorded,)] = cursor.fetchall()
    assert recorded > 0
    with urllib.request.urlopen(metrics, timeout=5) as reply:  # noqa: S310 - our own http address
        lines = reply.read().decode().splitlines()
    counted = sum(float(line.split()[-1]) for line in lines if line.startswith("webhook_events_total{"))
    assert counted >= recorded, f"{counted} of {recorded} events are counted"
    assert "db_ready 1.0" in lines


def check_heartbeat(jobs: str) -> None:
    """The liveness probe of the jobs succeeds, and fails while the main loop does not run."""
    probe = manifests.containers("StatefulSet")["jobs"]["livenessProbe"]["exec"]["command"]
    run(*PODMAN, "exec", jobs, *probe)
    run(*PODMAN, "kill", "--signal", "STOP", jobs)
    run(*PODMAN, "exec", jobs, *probe, status=1)
    run(*PODMAN, "kill", "--signal", "CONT", jobs)
    run(*PODMAN, "exec", jobs, *probe)


def main() -> int:
    """Builds and checks. Returns the exit status."""
    missing = [name for name in ("mmdebstrap", "buildah", "podman", "runc") if debian.find(name) is None]
    if missing or os.geteuid():
        print(f"this needs root, and: apt-get install {' '.join(missing) or 'nothing'}", file=sys.stderr)
        return 1
    with guarded(), tempfile.TemporaryDirectory() as name:
        with timed("the base"):
            make_base(Path(name))
        with timed("the image"):
            build_image(Path(name))
        check_image()
        [port] = free_ports(1)
        volume = run(*PODMAN, "volume", "create").strip()
        try:
            with running_server({"listen_addresses": "127.0.0.1", "port": str(port)}) as server:
                at = f"127.0.0.1:{port}/postgres"
                with timed("the tables"):
                    migrate(f"postgresql://{USER}@{at}")
                check_pod(f"postgresql://donationd@{at}", f"{server.url.format(name='postgres')}&port={port}", volume)
        finally:
            run(*PODMAN, "volume", "rm", volume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
