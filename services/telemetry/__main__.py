"""`python -m services.telemetry`: one replica of the service."""

from services.telemetry.app import SETTINGS, from_environment
from shared.service import main

if __name__ == "__main__":
    main("telemetry", from_environment, SETTINGS)
