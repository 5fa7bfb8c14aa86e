"""One live run that shows what operators see: traces, figures, errors, costs, alerts and the runbook, held against the log."""
