from __future__ import annotations

import pytest

from tidegate.stack.demo.data import Flights, load_flights
from tidegate.stack.demo.models import (
    TrainedModel,
    train_aircraft_table,
    train_gradient_boosting,
    train_logistic_regression,
)


@pytest.fixture(scope="session")
def flights() -> Flights:
    return load_flights()


@pytest.fixture(scope="session")
def logistic(flights: Flights) -> TrainedModel:
    return train_logistic_regression(flights)


@pytest.fixture(scope="session")
def boosted(flights: Flights) -> TrainedModel:
    return train_gradient_boosting(flights)


@pytest.fixture(scope="session")
def tabled(flights: Flights) -> TrainedModel:
    return train_aircraft_table(flights)
