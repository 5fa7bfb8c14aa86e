"""`python -m services.gateway`: one replica of the service."""

from services.gateway.app import SETTINGS, from_environment
from shared.service import main

if __name__ == "__main__":
    main("gateway", from_environment, SETTINGS)
