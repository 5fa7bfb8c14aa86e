"""Versions that are known to be troublesome. A warning never stops a preview. Pure."""

import re

import msgspec

NEXT_DISCUSSION = "https://github.com/vercel/next.js/discussions/77102"


class VersionWarning(msgspec.Struct, frozen=True, kw_only=True):
    """What to tell, in the shape that front ends know."""

    code: str
    version: str
    message: str
    recommendation: str
    link: str


def warnings_for(framework: str, version: str) -> tuple[VersionWarning, ...]:
    """The warnings that this version of this framework deserves."""
    if framework == "nextjs" and re.match(r"16\.[01](\.|$|-)", version):
        return (
            VersionWarning(
                code="nextjs_version",
                version=version,
                message=f"Next.js {version} has known dev server hanging issues.",
                recommendation="15.3.0",
                link=NEXT_DISCUSSION,
            ),
        )
    return ()
