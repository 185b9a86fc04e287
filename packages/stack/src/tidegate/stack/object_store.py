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
from tidegate.stack.private import write_private
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
        write_private(path, json.dumps(made))
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
    """Format the store on the first run, tell it if its folder was moved, and return its program.

    Raises:
        Unavailable: The store can't be set up.

    """
    data_dir = data_dir.resolve()
    for folder in ("blob", "cache"):
        (data_dir / folder).mkdir(parents=True, exist_ok=True)
    juicefs = str(Path(sysconfig.get_path("scripts")) / PROCESS_NAME)
    meta_url = f"sqlite3://{data_dir / 'meta.db'}"
    blob_url = f"{data_dir / 'blob'}/"
    # Says where the blobs lay at the last start: the metadata has their absolute path, and folders are moved.
    stamp = data_dir / "formatted"
    if not stamp.exists():
        storage = ("--storage", "file", "--bucket", blob_url, "--trash-days", "0")
        _run(data_dir, juicefs, "format", *storage, meta_url, "tidegate")
    elif stamp.read_text() != blob_url:
        _run(data_dir, juicefs, "config", meta_url, "--bucket", blob_url, "--force", "--yes")
    stamp.write_text(blob_url)
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


def _run(data_dir: Path, *command: str) -> None:
    outcome = subprocess.run(  # noqa: S603  (our own command)
        command,
        cwd=data_dir,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=FORMAT_TIMEOUT_S,
        check=False,
    )
    if outcome.returncode != 0:
        raise Unavailable(
            f"the object store in {data_dir} can't be set up (exit code {outcome.returncode}): "
            f"{(outcome.stderr or outcome.stdout).strip()[-1000:]}",
            code="OBJECT_STORE_SETUP_FAILED",
            hint="see that the disk has room and that the folder may be written",
        )
