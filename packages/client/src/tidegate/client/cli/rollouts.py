"""Commands that follow and steer rollouts."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.client.cli.connection import connect
from tidegate.client.cli.names import version_named
from tidegate.client.cli.output import AsJson, as_dict, console, short_time, write_json, write_table
from tidegate.client.why import evidence_line, phase_name, traffic_line
from tidegate.contracts.names import format_version
from tidegate.v1.rollout_service_pb2 import Rollout

app = typer.Typer(no_args_is_help=True, help="Follow and steer rollouts.")

RolloutId = Annotated[str, typer.Argument(help="Id of the rollout.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; it is written down.")]
Reference = Annotated[str, typer.Argument(help="MODEL@1.2.3 or MODEL@ALIAS.", show_default=False)]
ModelFilter = Annotated[str, typer.Option(help="Only of this model.")]


@app.command("list")
def list_rollouts(context: typer.Context, *, model: ModelFilter = "", json: AsJson = False) -> None:
    """List rollouts, newest first."""
    with connect(context) as client:
        found = client.list_rollouts(model)
    if json:
        write_json([as_dict(rollout) for rollout in found])
        return
    write_table(
        ("ROLLOUT", "PHASE", "TRAFFIC", "WHY"),
        (
            (
                rollout.rollout_id,
                phase_name(rollout.last_step.phase),
                traffic_line(rollout.last_step),
                rollout.last_step.reason,
            )
            for rollout in found
        ),
    )


@app.command("show")
def show(context: typer.Context, rollout_id: RolloutId, *, json: AsJson = False) -> None:
    """Show where a rollout stands, and the evidence that it was decided from."""
    with connect(context) as client:
        _show(client.get_rollout(rollout_id), json=json)


@app.command("watch")
def watch(
    context: typer.Context,
    *,
    model: ModelFilter = "",
    timeout_s: Annotated[float, typer.Option(help="Stop after so many seconds; 0 = never.")] = 0.0,
    json: AsJson = False,
) -> None:
    """Print each step of rollouts as it happens, from now on."""
    with connect(context) as client:
        for rollout in client.watch_rollouts(model, timeout_s=timeout_s or None):
            if json:
                write_json(as_dict(rollout), one_line=True)
            else:
                _write_step(rollout)


@app.command("start")
def start(context: typer.Context, reference: Reference, *, reason: Reason = "", json: AsJson = False) -> None:
    """Try a version (again), as a new rollout by the policy that it was blessed with."""
    with connect(context) as client:
        model, version = version_named(client, reference)
        _decided(client.start_rollout(model, version, reason=reason), "start", json=json)


@app.command("pause")
def pause(context: typer.Context, rollout_id: RolloutId, *, reason: Reason = "", json: AsJson = False) -> None:
    """Stay at this step; a breach still rolls back."""
    with connect(context) as client:
        _decided(client.pause_rollout(rollout_id, reason=reason), "pause", json=json)


@app.command("resume")
def resume(context: typer.Context, rollout_id: RolloutId, *, reason: Reason = "", json: AsJson = False) -> None:
    """Go on from where the rollout was paused."""
    with connect(context) as client:
        _decided(client.resume_rollout(rollout_id, reason=reason), "resume", json=json)


@app.command("approve")
def approve(context: typer.Context, rollout_id: RolloutId, *, reason: Reason = "", json: AsJson = False) -> None:
    """Let the approval pass that a rollout waits for."""
    with connect(context) as client:
        _decided(client.approve_rollout(rollout_id, reason=reason), "approve", json=json)


@app.command("abort")
def abort(context: typer.Context, rollout_id: RolloutId, *, reason: Reason = "", json: AsJson = False) -> None:
    """End a rollout; traffic goes back to stable."""
    with connect(context) as client:
        _decided(client.abort_rollout(rollout_id, reason=reason), "abort", json=json)


@app.command("promote")
def promote(
    context: typer.Context,
    rollout_id: RolloutId,
    *,
    full: Annotated[bool, typer.Option("--full", help="To 100 %, instead of one step.")] = False,
    reason: Reason = "",
    json: AsJson = False,
) -> None:
    """Go on without waiting for evidence."""
    with connect(context) as client:
        _decided(client.promote_rollout(rollout_id, full=full, reason=reason), "promote", json=json)


def rollback(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    *,
    to: Annotated[str, typer.Option(help="Version to go back to (default: the previous stable).")] = "",
    reason: Reason = "",
    json: AsJson = False,
) -> None:
    """Move a model back to a version that served before."""
    with connect(context) as client:
        response = client.rollback_model(model, to=to, reason=reason)
    if json:
        write_json(as_dict(response))
    else:
        console().print(f"decided: {model} goes back to {format_version(response.version)}", markup=False)
        write_decision(response.rollout)


def _decided(rollout: Rollout, verb: str, *, json: bool) -> None:
    if json:
        write_json(as_dict(rollout))
    else:
        console().print(f"decided: {verb} {rollout.rollout_id}", markup=False)
        write_decision(rollout)


def write_decision(rollout: Rollout) -> None:
    """Write where a command has left a rollout."""
    step = rollout.last_step
    console().print(f"{phase_name(step.phase)}: {traffic_line(step)}", markup=False)
    console().print(step.reason, markup=False, style="dim")
    console().print(f"what follows: tidegate rollouts show {rollout.rollout_id}", markup=False)


def _show(rollout: Rollout, *, json: bool) -> None:
    if json:
        write_json(as_dict(rollout))
        return
    step = rollout.last_step
    stable = format_version(step.stable) if step.HasField("stable") else "none: it is the first"
    rows = [
        ("rollout", rollout.rollout_id),
        ("candidate", format_version(step.candidate)),
        ("stable", stable),
        ("strategy", step.strategy),
        ("phase", phase_name(step.phase)),
        ("traffic", traffic_line(step)),
        ("route", f"{step.route_epoch}/{step.route_revision}"),
        ("why", step.reason),
        ("cause", step.cause),
        *([("waits for", f"{step.waiting.code}: {step.waiting.message}")] if step.HasField("waiting") else []),
        *(("evidence", evidence_line(evidence)) for evidence in step.evidence),
    ]
    write_table(("WHAT", "NOW"), ((what, now or "-") for what, now in rows))


def _write_step(rollout: Rollout) -> None:
    step = rollout.last_step
    time = short_time(rollout.update_time.ToDatetime())
    out = console()
    out.print(f"{time}  {rollout.rollout_id}  {phase_name(step.phase)}  {traffic_line(step)}", markup=False)
    out.print(f"{'':14}{step.reason}", markup=False, style="dim")
