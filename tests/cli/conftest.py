"""The registry of small models that the app's tests make, for the commands that read it."""

from tests.app.conftest import registry, threestage

__all__ = ["registry", "threestage"]
