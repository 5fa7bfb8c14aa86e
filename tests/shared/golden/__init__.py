"""Golden files: what each version of each event looked like in the log when it was first written, kept for ever."""
