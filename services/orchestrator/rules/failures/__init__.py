"""Why a job failed, from how it ended and what it printed: a catalogue of causes. Pure.

The causes are data, in `catalogue.toml`; `catalogue` says how to read it, `matching` how a cause is found.
"""

from services.orchestrator.rules.failures.explaining import Ended, Explanation, crashed, explain

__all__ = ["Ended", "Explanation", "crashed", "explain"]
