"""`python -m services.gateway`: one replica of the service."""

from services.gateway.app import from_environment
from shared.service import main

if __name__ == "__main__":
    main(from_environment())
