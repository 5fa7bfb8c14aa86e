"""`python -m services.orchestrator`: one replica of the service."""

from services.orchestrator.app import SETTINGS, from_environment
from shared.service import main

if __name__ == "__main__":
    main("orchestrator", from_environment, SETTINGS)
