"""``make compose-test``: ``docker-compose.yml`` for real; exit 0 if all came out, or if there is no Docker engine."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from pathlib import Path
from typing import Final

from composetest.checks import hardening, rights
from composetest.engine import CommandError, Engine, NoEngineError, engine
from composetest.images import Image, NoImageError, Provider, wanted
from composetest.play import play, restart_all
from composetest.project import ROOT, Project, project
from tidegate.stack.demo.data import load_flights
from tidegate.stack.demo.expectations import Expectation

FOLDER: Final = ROOT / ".tidegate" / "compose-test"
_BEGIN: Final = time.monotonic()


def tell(text: str) -> None:
    """Write one line with the seconds since the start."""
    print(f"{time.monotonic() - _BEGIN:7.1f} s  {text}", flush=True)


def main() -> int:
    """Run the test; return 1 if something did not come out."""
    options = argparse.ArgumentParser(prog="make compose-test", description=__doc__)
    options.add_argument(
        "--dir", type=Path, default=FOLDER, help="what may be kept between runs (default: %(default)s)"
    )
    options.add_argument(
        "--install", action="store_true", help="add Debian's packages of Docker where they are missing"
    )
    given = options.parse_args()
    folder = given.dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with engine(folder, install=given.install) as found:
            images = Provider(found, folder, install=given.install, tell=tell).provide(
                wanted((ROOT / "docker-compose.yml").read_text())
            )
            expectations = _run(found, images, folder)
    except NoEngineError as error:
        print(f"compose-test: not run: no Docker engine ({error})")
        return 0
    except (NoImageError, CommandError) as error:
        print(f"compose-test: FAILED: {error}")
        return 1
    return _summary(images, expectations)


def _run(found: Engine, images: list[Image], folder: Path) -> list[Expectation]:
    with project(found, f"tidegate-test-{secrets.token_hex(3)}", folder, images) as made:
        tell("building the services' images")
        build_s = made.build()
        tell(f"built in {build_s:.0f} s; starting")
        up_s = made.up()
        tell(f"all healthy after {up_s:.0f} s")
        try:
            expectations = _look(made, folder)
        except BaseException:
            print(made.logs(("registry", "validator", "deployer", "monitor", "modelhost", "gateway")))
            raise
        for image, size in made.image_sizes_mb().items():
            print(f"           {image:<44} {size:7.0f} MB")
        if not all(each.holds for each in expectations):
            print(made.logs(("registry", "validator", "deployer", "monitor", "modelhost", "gateway")))
        tell("taking everything down")
    return expectations


def _look(made: Project, folder: Path) -> list[Expectation]:
    expectations = hardening(made.containers()) + rights(made)
    flights = load_flights()
    expectations += play(made, flights, folder / "models")
    tell("restarting all four services under traffic")
    return expectations + restart_all(made, flights)


def _summary(images: list[Image], expectations: list[Expectation]) -> int:
    print("\n== What had to come out, and what did")
    for each in expectations:
        print(f"  {'ok  ' if each.holds else 'FAIL'}  {each.name}: {each.observed}")
    standins = [image for image in images if image.is_standin]
    print("\n== What it ran on")
    for image in images:
        print(f"  {'STAND-IN for ' + image.standin_from if image.is_standin else image.name}")
    if standins:
        print(f"  {len(standins)} of {len(images)} public images could not be pulled here and were NOT tested")
    failed = [each for each in expectations if not each.holds]
    counted = f"{len(expectations) - len(failed)} of {len(expectations)} hold"
    print(f"\ncompose-test: {'FAILED' if failed else 'passed'}: {counted}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
