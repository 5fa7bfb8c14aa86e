"""Domain knowledge as pure functions: what a project is, what is known to be troublesome, how far a preview is."""
