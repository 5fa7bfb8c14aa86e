"""Versions that are known to be troublesome. A warning never stops a preview. Pure."""

import re

from shared.commands import PreviewWarning

NEXT_DISCUSSION = "https://github.com/vercel/next.js/discussions/77102"


def warnings_for(framework: str, version: str) -> tuple[PreviewWarning, ...]:
    """The warnings that this version of this framework deserves. Detection includes them."""
    if framework == "nextjs" and re.match(r"16\.[01](\.|$|-)", version):
        return (
            PreviewWarning(
                code="nextjs_version",
                version=version,
                message=f"Next.js {version} has known dev server hanging issues.",
                recommendation="15.3.0",
                link=NEXT_DISCUSSION,
            ),
        )
    return ()
