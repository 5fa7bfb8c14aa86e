"""`python -m services.pool`: one replica of the service."""

from services.pool.app import SETTINGS, from_environment
from shared.service import main

if __name__ == "__main__":
    main("pool", from_environment, SETTINGS)
