"""Looking at the log's past: moments, states at a moment, what changed between two, and copies of the log."""
