"""What `drape doctor` looks at: one room a subject, each giving findings; none raises, none waits without a limit."""
