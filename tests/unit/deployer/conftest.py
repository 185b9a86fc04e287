"""A small language for what happens to a model, one line an event; transcripts are written in it.

``register V`` · ``bless V [key=value ...]`` · ``approve-version V`` · ``ready V`` · ``down V`` · ``failed V why`` · ``full V why`` ·
``ack [epoch.revision]`` · ``refuse [epoch.revision]`` · ``evidence [epoch.revision]`` · ``breach GUARD`` · ``heartbeat`` · ``wait SECONDS`` ·
``take-over`` · ``pause`` · ``resume`` · ``promote [full]`` · ``abort`` · ``approve`` · ``start V`` · ``rollback [V]``
"""

from __future__ import annotations

import dataclasses

import pytest

from tidegate.deployer import events as core
from tidegate.deployer.rollout import decide
from tidegate.deployer.state import (
    Blessed,
    DeliveryPolicy,
    EvidenceItem,
    KnownVersion,
    ModelState,
    Number,
    Strategy,
)

START_S = 1_000.0
_POLICY_FIELDS = {field.name: field for field in dataclasses.fields(DeliveryPolicy)}


def number(text):
    return Number(*(int(part) for part in text.split(".")))


def policy(options):
    """Return a policy; ``steps`` and ``bake`` are of every canary, all else is named as in DeliveryPolicy."""
    options = dict(options)
    steps = tuple(float(share) for share in options.pop("steps", "0.1,1").split(","))
    canary = Strategy(name="canary", steps=steps, bake_s=float(options.pop("bake", 10)))
    switch = Strategy(name="blue_green", bake_s=0.0)
    first = Strategy(name="blue_green", bake_s=0.0, approval=options.pop("first_approval", ""))
    fields = {"approvals": (0, 0, 0), "settle_s": 60.0}
    for key, value in options.items():
        default = _POLICY_FIELDS[key].default
        if key == "approvals":
            fields[key] = tuple(int(count) for count in value.split(","))
        else:
            fields[key] = type(default)(value)
    return DeliveryPolicy(revision=1, on_first=first, on_major=switch, on_minor=canary, on_pipeline=canary, **fields)


class Script:
    """Plays lines against the core and tells what came of each; all events, states and steps are kept."""

    def __init__(self):
        self.time_s = START_S
        self.state = ModelState(model="fraud")
        self.events = []
        self.decisions = []
        self.rollout_id = ""

    def play(self, line):
        """Return the event of ``line`` and the decision on it."""
        event = self._event(*line.split())
        decision = decide(self.state, event)
        self.events.append(event)
        self.decisions.append(decision)
        self.state = decision.state
        for step in decision.steps:
            self.rollout_id = step.rollout.rollout_id
        return decision

    def told(self, line):
        """Return what came of ``line``, for people."""
        before = self.state
        decision = self.play(line)
        lines = [f"> {line}"]
        lines += [f"  {self._step(step)}" for step in decision.steps]
        if not decision.steps:
            lines.append(f"  {decision.reason}")
        if decision.route_changed:
            lines.append(f"  {self._route()}")
        if before.wanted_servers() != self.state.wanted_servers():
            lines.append(f"  servers: {' '.join(str(one) for one in self.state.wanted_servers())}")
        return lines

    def _event(self, verb, *words):  # noqa: C901, PLR0911  (one case a word)
        self.time_s += float(words[0]) if verb == "wait" else 0.0
        stamp = {"time_s": self.time_s, "cause": verb}
        rollout_id = self.state.rollout.rollout_id if self.state.rollout is not None else self.rollout_id
        evidence = EvidenceItem(guard="errors", e_value=25.0, threshold=20.0, candidate_count=100, stable_count=900)
        match verb:
            case "register":
                version = KnownVersion(
                    number=number(words[0]), uri="s3://a/b", digest="sha256:00", size_bytes=7, format="onnx"
                )
                return core.VersionRegistered(**stamp, version=version)
            case "bless":
                return core.VersionBlessed(**stamp, blessed=self._blessed(number(words[0]), words[1:]))
            case "approve-version":
                return core.VersionApproved(**stamp, number=number(words[0]))
            case "ready" | "down" | "failed" | "full":
                return core.ServerChanged(
                    **stamp,
                    number=number(words[0]),
                    endpoint=f"unix:/run/{words[0]}" if verb == "ready" else "",
                    ready=verb == "ready",
                    failure=" ".join(words[1:]) if verb == "failed" else "",
                    waiting=" ".join(words[1:]) if verb == "full" else "",
                )
            case "ack":
                epoch, revision = self._route_of(words)
                return core.RouteAcknowledged(**stamp, epoch=epoch, revision=revision)
            case "refuse":
                epoch, revision = self._route_of(words)
                return core.RouteRefused(**stamp, epoch=epoch, revision=revision, message="no such cluster")
            case "evidence":
                epoch, revision = self._route_of(words)
                return core.EvidenceReached(
                    **stamp, rollout_id=rollout_id, epoch=epoch, revision=revision, evidence=evidence
                )
            case "breach":
                return core.MetricBreached(**stamp, rollout_id=rollout_id, guard=words[0], evidence=evidence)
            case "heartbeat":
                return core.HeartbeatSeen(**stamp, rollout_id=rollout_id)
            case "wait":
                return core.Ticked(time_s=self.time_s)
            case "take-over":
                return core.TakenOver(**stamp)
            case _:
                return core.CommandGiven(
                    **stamp,
                    request_id=f"r{len(self.events)}",
                    verb=core.Verb(verb.upper()),
                    rollout_id=rollout_id,
                    number=number(words[0]) if words and words[0] != "full" else None,
                    full="full" in words,
                    actor="ana",
                )

    def _blessed(self, version, options):
        return Blessed(
            number=version,
            policy=policy(option.split("=") for option in options),
            cause_id=f"b{len(self.events)}",
            rollout_id=f"fraud-{version}-b{len(self.events)}",
            correlation_id=f"k{version}",
        )

    def _route_of(self, words):
        if words:
            return tuple(int(part) for part in words[0].split("."))
        return self.state.route.epoch, self.state.route.revision

    def _step(self, step):
        rollout = step.rollout
        arms = ", ".join(f"{arm.number} {arm.weight_millionths / 10_000:g} %" for arm in step.arms)
        at = f"{step.route_epoch}.{step.route_revision}"
        return f"#{step.sequence} {rollout.rollout_id} {rollout.phase} [{arms}] at {at}: {step.reason}"

    def _route(self):
        route = self.state.route
        lines = [
            f"{line.major}: "
            + " + ".join(f"{arm.number} {arm.role.lower()} {arm.weight_millionths / 10_000:g} %" for arm in line.arms)
            + (f" else {line.fallback}" if line.fallback is not None else "")
            for line in route.lines
        ]
        lost = [str(version) for version, endpoint in route.endpoints if not endpoint]
        missing = f" (no endpoint of {', '.join(lost)})" if lost else ""
        return f"route {route.epoch}.{route.revision}: {'; '.join(lines) or 'nothing'}{missing}"


@pytest.fixture
def script():
    return Script()
