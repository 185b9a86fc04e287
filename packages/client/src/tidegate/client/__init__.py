"""The Tidegate SDK: publish trainings, look versions up, follow and steer rollouts."""

from tidegate.client.client import TidegateClient
from tidegate.client.events import EventReader
from tidegate.client.settings import ClientSettings, load_settings
from tidegate.client.training import Receipt, TrainingRun, evaluation_digest, read_training_file

__all__ = [
    "ClientSettings",
    "EventReader",
    "Receipt",
    "TidegateClient",
    "TrainingRun",
    "evaluation_digest",
    "load_settings",
    "read_training_file",
]
