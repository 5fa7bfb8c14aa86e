"""`python -m services.telemetry`: one replica of the service."""

from services.telemetry.app import from_environment
from shared.service import main

if __name__ == "__main__":
    main(from_environment())
