"""The artifact store: MinIO's S3 server code over a local folder, by the JuiceFS gateway, with keys of its own."""

from __future__ import annotations

import json
import secrets
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.core.errors import InvalidInput, Unavailable
from tidegate.stack.environment import clean_environment
from tidegate.stack.program import Program

UPLOAD_BUCKET: Final = "tidegate-uploads"
ARTIFACT_BUCKET: Final = "tidegate-artifacts"
FORMAT_TIMEOUT_S: Final = 60
PROCESS_NAME: Final = "juicefs"
CACHE_MIB: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """The keys of the store; ``repr`` does not show the secret."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"Credentials(access_key={self.access_key!r})"


def ensure_credentials(path: Path) -> Credentials:
    """Return the keys in the file at ``path``; made there on the first run, readable by its owner alone.

    Raises:
        InvalidInput: The file is damaged.

    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {"access_key": "tidegate-" + secrets.token_hex(6), "secret_key": secrets.token_urlsafe(24)}
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(made))
        partial.rename(path)
    try:
        found = json.loads(path.read_text())
        return Credentials(access_key=found["access_key"], secret_key=found["secret_key"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} holds no credentials: {error}",
            code="CREDENTIALS_UNREADABLE",
            hint="delete it while the stack is down; new ones are made at the next start",
        ) from None


def prepare_object_store(data_dir: Path, *, port: int, credentials: Credentials) -> Program:
    """Format the store on the first run and return its program.

    Raises:
        Unavailable: The store can't be formatted.

    """
    data_dir = data_dir.resolve()
    for folder in ("blob", "cache"):
        (data_dir / folder).mkdir(parents=True, exist_ok=True)
    juicefs = str(Path(sysconfig.get_path("scripts")) / PROCESS_NAME)
    meta_url = f"sqlite3://{data_dir / 'meta.db'}"
    if not (data_dir / "formatted").exists():
        _format(juicefs, meta_url, data_dir)
        (data_dir / "formatted").touch()
    options = ("--multi-buckets", "--keep-etag", "--object-tag", "--object-meta", "--hide-dir-object")
    local = ("--no-usage-report", "--cache-dir", str(data_dir / "cache"), "--cache-size", str(CACHE_MIB))
    return Program(
        name="object-store",
        command=(juicefs, "gateway", *options, *local, meta_url, f"127.0.0.1:{port}"),
        directory=data_dir,
        environment={
            "MINIO_ROOT_USER": credentials.access_key,
            "MINIO_ROOT_PASSWORD": credentials.secret_key,
        },
    )


def _format(juicefs: str, meta_url: str, data_dir: Path) -> None:
    storage = ("--storage", "file", "--bucket", f"{data_dir / 'blob'}/", "--trash-days", "0")
    outcome = subprocess.run(  # noqa: S603  (our own command)
        [juicefs, "format", *storage, meta_url, "tidegate"],
        cwd=data_dir,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=FORMAT_TIMEOUT_S,
        check=False,
    )
    if outcome.returncode != 0:
        raise Unavailable(
            f"the object store in {data_dir} can't be formatted (exit code {outcome.returncode}): "
            f"{(outcome.stderr or outcome.stdout).strip()[-1000:]}",
            code="OBJECT_STORE_FORMAT_FAILED",
            hint="see that the disk has room and that the folder may be written",
        )
