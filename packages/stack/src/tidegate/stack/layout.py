"""Where the stack keeps what: one data directory, and a short one for sockets."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.core.errors import FailedPrecondition

# A socket's path may have 107 bytes; below its folder the model hosts need room for the names of servers.
SOCKET_FOLDER_BYTES_MAX: Final = 50
RUNTIMES_VARIABLE: Final = "TIDEGATE_RUNTIMES_DIR"
_FOLDERS: Final = (
    "kafka", "object-store", "gateway", "registry", "validator", "deployer", "monitor", "modelhost",
    "modelhost-sandbox", "import", "logs", "run", "tokens",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The places of one stack; ``root`` is absolute."""

    root: Path

    @classmethod
    def of(cls, directory: Path) -> Layout:
        """Return the layout of the data directory ``directory``."""
        return cls(root=directory.expanduser().resolve())

    @property
    def record(self) -> Path:
        """The file that says where everything is."""
        return self.root / "stack.json"

    @property
    def lock(self) -> Path:
        """Held while the stack is being started or stopped."""
        return self.root / "stack.lock"

    @property
    def credentials(self) -> Path:
        """The keys of the object store."""
        return self.root / "credentials.json"

    @property
    def tokens_file(self) -> Path:
        """Whom the services let in."""
        return self.root / "tokens.json"

    @property
    def tokens(self) -> Path:
        """The tokens of the stack's own parts, one a file."""
        return self.root / "tokens"

    @property
    def run(self) -> Path:
        """Scripts and the supervisor's configuration of this run."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """One log a part."""
        return self.root / "logs"

    @property
    def import_dir(self) -> Path:
        """Files that producers name by ``file://``."""
        return self.root / "import"

    @property
    def sockets(self) -> Path:
        """The folder of all unix sockets; in the system's temporary folder if the data directory's path is long."""
        if len(os.fsencode(self.run)) <= SOCKET_FOLDER_BYTES_MAX:
            return self.run
        key = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"tidegate-{os.getuid()}-{key}"

    @property
    def supervisor_socket(self) -> Path:
        """Where the supervisor is spoken to."""
        return self.sockets / "supervisor.sock"

    @property
    def supervisor_configuration(self) -> Path:
        """The supervisor's configuration."""
        return self.run / "supervisord.conf"

    @property
    def gateway_admin_socket(self) -> Path:
        """Envoy's administration interface."""
        return self.sockets / "envoy.sock"

    def model_sockets(self, part: str) -> Path:
        """Where the model servers of the host ``part`` listen."""
        return self.sockets / ("s" if part == "modelhost-sandbox" else "m")

    def part(self, name: str) -> Path:
        """Return the folder of the part ``name``."""
        return self.root / name

    def log(self, name: str) -> Path:
        """Return the path of the log of the part ``name``."""
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Make all folders, readable by their owner alone.

        Raises:
            FailedPrecondition: One can't be made, or the socket folder is somebody else's.

        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in _FOLDERS:
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
            self.sockets.mkdir(exist_ok=True, mode=0o700)
            self._check_sockets_are_ours()
            for name in ("modelhost", "modelhost-sandbox"):
                self.model_sockets(name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise FailedPrecondition(
                f"the data directory {self.root} can't be made: {error.strerror}: {error.filename}",
                code="DATA_DIR_UNUSABLE",
                hint="choose another one with --dir",
            ) from error

    def _check_sockets_are_ours(self) -> None:
        found = self.sockets.lstat()
        if self.sockets.is_symlink() or found.st_uid != os.getuid():
            raise FailedPrecondition(
                f"{self.sockets} belongs to somebody else", code="DATA_DIR_UNUSABLE", hint="choose a shorter --dir"
            )
        self.sockets.chmod(0o700)


def repository_root() -> Path:
    """Return the checkout that this package is installed from."""
    return Path(__file__).resolve().parents[5]


def runtimes_dir() -> Path:
    """Return the folder of model-server environments: TIDEGATE_RUNTIMES_DIR, else the checkout's ``runtimes/``.

    Raises:
        FailedPrecondition: It does not exist.

    """
    explicit = os.environ.get(RUNTIMES_VARIABLE)
    folder = Path(explicit) if explicit else repository_root() / "runtimes"
    if not folder.is_dir():
        raise FailedPrecondition(
            f"there is no folder of runtimes at {folder}",
            code="RUNTIMES_MISSING",
            hint=f"run from a checkout, or set {RUNTIMES_VARIABLE}",
        )
    return folder.resolve()
