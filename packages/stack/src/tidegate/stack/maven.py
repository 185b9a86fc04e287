"""Kafka's jars: pinned by sha256, fetched from Maven Central or a mirror, kept in a cache outside the repository."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import pooch
import requests

from tidegate.core.errors import InvalidInput, Unavailable

CENTRAL_URL: Final = "https://repo.maven.apache.org/maven2"
MIRROR_VARIABLE: Final = "TIDEGATE_MAVEN_URL"
CACHE_VARIABLE: Final = "TIDEGATE_CACHE_DIR"
JARS_SIZE_MB: Final = 44.6
PARALLEL_DOWNLOADS: Final = 8
RETRIES: Final = 2
TIMEOUT_S: Final = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Jar:
    """A pinned file; ``path`` is its place in a Maven repository."""

    path: str
    sha256: str


def read_lock() -> tuple[Jar, ...]:
    """Return the jars of the broker."""
    text = resources.files("tidegate.stack").joinpath("resources/jars.lock").read_text()
    lines = (line.split() for line in text.splitlines() if line.strip())
    return tuple(Jar(path=path, sha256=sha256) for sha256, path in lines)


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of downloaded files: TIDEGATE_CACHE_DIR, else ``tidegate`` in the user's cache."""
    if explicit := environ.get(CACHE_VARIABLE):
        return Path(explicit)
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tidegate"


def repository_url(environ: Mapping[str, str] = os.environ, *, settings: Path | None = None) -> str:
    """Return the Maven repository to use, without a slash at its end.

    TIDEGATE_MAVEN_URL wins, then a mirror of Central in Maven's own settings (default ``~/.m2/settings.xml``), then
    Central.

    Raises:
        InvalidInput: The variable is no URL, or the settings are no XML.

    """
    if explicit := environ.get(MIRROR_VARIABLE):
        if urlsplit(explicit).scheme not in {"http", "https"}:
            raise InvalidInput(
                f"{MIRROR_VARIABLE} is {explicit!r}, expected a URL of a Maven repository",
                code="MAVEN_URL_INVALID",
                hint=f"for example {MIRROR_VARIABLE}={CENTRAL_URL}",
            )
        return explicit.rstrip("/")
    return (_mirror(settings or Path.home() / ".m2" / "settings.xml") or CENTRAL_URL).rstrip("/")


def _mirror(settings: Path) -> str | None:
    """Return the URL of the first mirror in ``settings`` that stands for Central, as Maven chooses it."""
    try:
        root = ET.fromstring(settings.read_bytes())  # noqa: S314  (the user's own file)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
    except ET.ParseError as error:
        raise InvalidInput(
            f"{settings} is not XML: {error}",
            code="MAVEN_SETTINGS_UNREADABLE",
            hint=f"mend it, or set {MIRROR_VARIABLE}",
        ) from None
    for mirror in root.iterfind("{*}mirrors/{*}mirror"):
        patterns = {part.strip() for part in (mirror.findtext("{*}mirrorOf") or "").split(",")}
        url = (mirror.findtext("{*}url") or "").strip()
        if url and "!central" not in patterns and patterns & {"central", "*", "external:*"}:
            return url
    return None


def fetch_jars(
    jars: tuple[Jar, ...],
    *,
    cache: Path,
    url: str,
    announce: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[Path, ...]:
    """Return the paths of ``jars``, each checked against its sha256 in this call; missing ones are downloaded.

    ``announce`` is told before anything is downloaded, ``progress`` the number of files done and their total.

    Raises:
        Unavailable: A file can't be had, or is not the pinned one; nothing of it is kept.

    """
    folder = cache / "maven"
    missing = sum(not (folder / jar.path).is_file() for jar in jars)
    if missing:
        share = f" of {len(jars)}" if missing < len(jars) else ""
        announce(
            f"downloading {missing}{share} jars of Apache Kafka ({JARS_SIZE_MB} MB in all) from {without_user(url)}"
        )
    pooch.get_logger().setLevel("CRITICAL")
    store = pooch.create(
        path=folder,
        base_url=url + "/",
        registry={jar.path: f"sha256:{jar.sha256}" for jar in jars},
        retry_if_failed=RETRIES,
    )
    _fetch_all(store, jars, url, progress if missing else lambda _done, _all: None)
    return tuple(folder / jar.path for jar in jars)


def _fetch_all(store: pooch.Pooch, jars: tuple[Jar, ...], url: str, progress: Callable[[int, int], None]) -> None:
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS, thread_name_prefix="jars") as pool:
        waiting = {pool.submit(store.fetch, jar.path, downloader=_downloader()): jar for jar in jars}
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                _checked(future.result, waiting[future], url)
                progress(done, len(jars))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _downloader() -> pooch.HTTPDownloader:
    return pooch.HTTPDownloader(progressbar=False, timeout=TIMEOUT_S, chunk_size=1 << 16)


def _checked(result: Callable[[], object], jar: Jar, url: str) -> None:
    name = Path(jar.path).name
    try:
        result()
    except ValueError as error:
        raise Unavailable(
            f"{name} from {without_user(url)} is not the pinned file (sha256 {jar.sha256} expected); it was not kept",
            code="DOWNLOAD_CORRUPT",
            hint=f"the download was cut off or altered on its way; try again, or set {MIRROR_VARIABLE} to a mirror",
        ) from error
    except (requests.RequestException, OSError) as error:
        raise Unavailable(
            f"{name} can't be downloaded from {without_user(url)}: {_first_line(error)}",
            code="DOWNLOAD_FAILED",
            hint=f"see that this machine reaches it, set HTTPS_PROXY, or set {MIRROR_VARIABLE} to a mirror",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def without_user(url: str) -> str:
    """Return ``url`` without user name and password, fit for messages."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def class_path(paths: tuple[Path, ...]) -> str:
    """Return the Java class path of exactly ``paths``."""
    return os.pathsep.join(_absolute(paths))


def _absolute(paths: tuple[Path, ...]) -> Iterator[str]:
    return (str(path.resolve()) for path in paths)
