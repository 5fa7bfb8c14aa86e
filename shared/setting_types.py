"""Types of settings that say more than what a value is; pure, so that configs can use them."""

from typing import Annotated

import msgspec

Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
"""A text that nobody else may know: it is told in no message, and has a twin `…_FILE` that names a file with it."""
Seed = Annotated[str, msgspec.Meta(extra={"secret": True, "twin": False})]
"""A secret whose file has a setting of its own already."""
ApiTokens = Annotated[str, msgspec.Meta(extra={"secret": True, "variable": "DRAPE_API_TOKENS"})]
"""A secret whose variable does not follow from its Struct's prefix."""
