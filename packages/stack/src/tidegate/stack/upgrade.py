"""Upgrading a stack that runs: what changed is replaced one process at a time, each ready before the next.

The registry goes first: it alone migrates a database, and a refused migration must end the upgrade before anything
else changed. Then those who take orders, and last the deployer, who gives them. Kafka, the object store and Envoy
carry the traffic and everybody's data: they go on, and if this release has others of them, that is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tidegate.core.errors import TidegateError, Unavailable
from tidegate.stack.layout import Layout
from tidegate.stack.object_store import Credentials
from tidegate.stack.parts import furnish, parts
from tidegate.stack.ports import PortPlan
from tidegate.stack.program import Program
from tidegate.stack.release import content_of, exports, release_of, this_release
from tidegate.stack.reporter import Reporter
from tidegate.stack.startup import wait_until_ready, wait_until_stopped
from tidegate.stack.supervisor import Supervisor, configuration, script

REPLACED: Final = ("registry", "modelhost", "modelhost-sandbox", "monitor", "validator", "deployer")
GO_ON: Final = ("kafka", "object-store", "gateway")
# Prefixes of the variables that a caller may set.
SETTINGS: Final = ("TIDEGATE_", "OTEL_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Upgraded:
    """What an upgrade did: ``replaced`` runs this release now, ``outdated`` goes on as the older one."""

    replaced: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()


def running_scripts(layout: Layout) -> dict[str, str]:
    """Return the start scripts of the parts that run, by part; read before this release writes its own."""
    return {path.stem: path.read_text() for path in sorted(layout.run.glob("*.sh"))}


def outdated_services(scripts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the services that were started by another release, in the order of their replacement."""
    return tuple(name for name in REPLACED if name in scripts and release_of(scripts[name]) != this_release())


def settings_of(scripts: Mapping[str, str], caller: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that the services were started with; what the caller says now wins."""
    kept: dict[str, str] = {}
    for name in REPLACED:
        kept |= {each: value for each, value in exports(scripts.get(name, "")).items() if each.startswith(SETTINGS)}
    return kept | dict(caller)


class Upgrade:
    """One upgrade of the stack of ``layout``."""

    def __init__(
        self, supervisor: Supervisor, layout: Layout, *, ports: PortPlan, credentials: Credentials, reporter: Reporter
    ) -> None:
        self._supervisor = supervisor
        self._layout = layout
        self._ports = ports
        self._credentials = credentials
        self._reporter = reporter
        self._looked_at = parts(ports, credentials)

    def run(self, programs: Sequence[Program], *, scripts: Mapping[str, str], contents: Mapping[str, str]) -> Upgraded:
        """Replace the services; ``scripts`` and ``contents`` are what ran before this release prepared its programs.

        Raises:
            Unavailable: A part does not become ready; the older one runs again if it still can. Those before it are
                replaced, those after it are not, and `tidegate up` goes on there.

        """
        wanted = {program.name: program for program in programs if program.name in scripts}
        outdated = tuple(
            name for name in GO_ON if name in wanted and content_of(script(wanted[name])) != contents[name]
        )
        furnish(self._ports, self._credentials)
        changed = self._configure([program for program in programs if program.name in scripts])
        replaced = outdated_services(scripts)
        for name in replaced:
            self._reporter.say(f"replacing {name}")
            with self._put_back(name, scripts[name]):
                self._replace(wanted[name], section_changed=name in changed)
        for name in GO_ON:
            if name in wanted and name not in outdated:
                # Its next start must not need the folder of the older release.
                self._supervisor.write_script(name, script(wanted[name]))
        if outdated:
            names = ", ".join(outdated)
            self._reporter.say(
                f"this release has another {names}: `tidegate down` and `tidegate up` when it suits you; "
                "until then the folder of the older release must stay, since it is started from there"
            )
        return Upgraded(replaced=replaced, outdated=outdated)

    def _configure(self, programs: Sequence[Program]) -> frozenset[str]:
        """Have the supervisor read this release's configuration; return the parts whose section changed."""
        text = configuration(programs, socket_path=self._layout.supervisor_socket)
        return self._supervisor.read_configuration(text)

    def _replace(self, program: Program, *, section_changed: bool) -> None:
        name = program.name
        self._supervisor.stop_part(name)
        wait_until_stopped(self._supervisor, name)
        self._supervisor.write_script(name, script(program))
        if section_changed:
            self._supervisor.take_section_anew(name)
        self._start(name)

    def _start(self, name: str) -> None:
        self._supervisor.start_part(name)
        wait_until_ready(self._supervisor, self._layout, name, self._looked_at[name].is_ready)

    @contextmanager
    def _put_back(self, name: str, older: str) -> Iterator[None]:
        try:
            yield
        except TidegateError as error:
            self._supervisor.stop_part(name)
            wait_until_stopped(self._supervisor, name)
            self._supervisor.write_script(name, older)
            raise Unavailable(
                f"the upgrade ended at {name}, {self._older_again(name)}: {error}",
                code="UPGRADE_STOPPED",
                hint=f"what failed is in {self._layout.log(name)}; `tidegate up` goes on from here",
            ) from error

    def _older_again(self, name: str) -> str:
        try:
            self._start(name)
        except TidegateError:
            return "whose older release does not start again either"
        return "whose older release runs again"


def contents_of(layout: Layout, scripts: Mapping[str, str]) -> dict[str, str]:
    """Return what Kafka, the object store and Envoy run, by content; noted at their start, else seen from the files."""
    noted = layout.run / "contents.json"
    known: dict[str, str] = json.loads(noted.read_text()) if noted.exists() else {}
    return {name: known.get(name) or content_of(scripts[name]) for name in GO_ON if name in scripts}


def note_contents(layout: Layout, contents: Mapping[str, str]) -> None:
    """Remember what Kafka, the object store and Envoy run: their files may be written anew while they go on."""
    noted = layout.run / "contents.json"
    partial = noted.with_name(noted.name + ".partial")
    partial.write_text(json.dumps(dict(contents)))
    partial.rename(noted)
