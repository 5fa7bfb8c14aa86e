"""Keys and permissions: the tables against the code, the server's own check of the configuration, denials as errors."""
